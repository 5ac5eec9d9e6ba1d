import re

import pytest
from exercise_helpers import assert_told

from lora_course.exercises.targeting import check, find_targets
from lora_np import GPT2Config, GPT2LMHeadModel, nn
from lora_np.lora.targets import find_targets as library_s


def selection(in_list, fits=re.fullmatch, without=("lm_head",)):
    """A student's function with its own rule for lists, strings or "all-linear"."""

    def wrong(layers, target_modules):
        if target_modules == "all-linear":
            return [name for name in layers if name not in without]
        if isinstance(target_modules, str):
            return [name for name in layers if fits(target_modules, name)]
        return [name for name in layers if any(in_list(name, target) for target in target_modules)]

    return wrong


def ends(name, target):
    return ("." + name).endswith("." + target)


def targets_first(layers, target_modules):
    if not isinstance(target_modules, list):
        return find_targets(layers, target_modules)
    return [name for target in target_modules for name in layers if ends(name, target)]


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (selection(lambda name, target: name.find(target) >= 0), "anywhere inside"),
        (selection(lambda name, target: name.endswith(target)), "only after a dot"),
        (selection(lambda name, target: name.rpartition(".")[2] == target), "only the last part"),
        (selection(lambda name, target: name.endswith(f".{target}")), "a whole name should be found"),
        (selection(lambda name, target: name == target), "by the end of its name"),
        (selection(lambda name, target: target in name.split(".")), "one part of a name after the other"),
        (selection(ends, fits=re.search), "searched inside the name"),
        (selection(ends, fits=re.match), "looks at the beginning only"),
        (selection(ends, without=()), "leaves the output head out"),
        (targets_first, "order is that of the targets"),
        (selection(ends), "raises no ValueError"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "find_targets", capsys)


def test_an_error_for_the_whole_list_alone_is_not_enough(capsys):
    def careless(layers, target_modules):
        found = selection(ends)(layers, target_modules)
        if not found:
            raise ValueError("nothing is found")
        return found

    assert_told(check, careless, r"\['c_attn', 'q_attn'\] raises no ValueError", "find_targets", capsys)


@pytest.mark.parametrize("target_modules", [["c_attn"], ["mlp.c_proj", "c_fc"], "all-linear", r".*h\.1\..*c_proj"])
def test_the_reference_finds_what_the_library_finds_in_a_model(target_modules):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=2, n_head=2))
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv1D)]
    assert find_targets(layers, target_modules) == library_s(model, target_modules)


def without_the_head(layers, target_modules):
    return [name for name in find_targets(layers, target_modules) if name != "lm_head"]


def no_word_of_its_own(layers, target_modules):
    if target_modules == "all-linear":
        return [name for name in layers if re.fullmatch(target_modules, name)]
    return find_targets(layers, target_modules)


def another_exception(layers, target_modules):
    found = selection(ends)(layers, target_modules)
    if not found:
        raise KeyError(target_modules)
    return found


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (without_the_head, "may ask for it"),
        (no_word_of_its_own, "a word of its own"),
        (another_exception, "raises KeyError; it should be a ValueError"),
    ],
)
def test_the_head_the_word_and_the_exception_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "find_targets", capsys)


def test_a_valueerror_where_something_should_be_found_is_said_to_be_the_student_s(capsys):
    def last_part(layers, target_modules):
        found = selection(lambda name, target: name.split(".")[-1] == target)(layers, target_modules)
        if not found:
            raise ValueError("nothing")
        return found

    last_part.__name__ = "find_targets"
    with pytest.raises(ValueError, match="nothing"):
        check(last_part)
    assert "target_modules = ['model.layers.1.mlp.up_proj']" in capsys.readouterr().out
