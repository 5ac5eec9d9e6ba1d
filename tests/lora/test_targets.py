"""Which layers an adapter goes to, and what a wrong name is answered."""

import dataclasses

import numpy as np
import pytest
from lora_helpers import (
    TARGETS,
    TwoLayers,
    copy_parameters,
    logits_of,
    peft_model,
    peft_twin,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_config,
    tiny_model,
)

from lora_np import GPT2LMHeadModel, LoraConfig, PeftModel, get_peft_model, nn
from lora_np.lora.targets import find_targets

BLOCK = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


def in_blocks(*names, blocks=(0, 1)):
    """The full names, in the model's order, of these layers of each block."""
    return [f"transformer.h.{i}.{name}" for i in blocks for name in BLOCK if name in names]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["c_attn"], in_blocks("attn.c_attn")),
        (["c_proj"], in_blocks("attn.c_proj", "mlp.c_proj")),
        (["mlp.c_proj"], in_blocks("mlp.c_proj")),
        (["c_fc", "c_attn"], in_blocks("attn.c_attn", "mlp.c_fc")),  # the model's order, not the list's
        (["transformer.h.1.mlp.c_fc"], in_blocks("mlp.c_fc", blocks=[1])),
        (["1.mlp.c_fc", "c_fc"], in_blocks("mlp.c_fc")),  # matched twice, adapted once
        (["lm_head"], ["lm_head"]),
        (("c_attn", "lm_head"), [*in_blocks("attn.c_attn"), "lm_head"]),
        (r".*\.c_attn", in_blocks("attn.c_attn")),
        (r"transformer\.h\.1\..*c_.*", in_blocks(*BLOCK, blocks=[1])),
        (r".*(c_attn|lm_head)", [*in_blocks("attn.c_attn"), "lm_head"]),
        ("lm_head", ["lm_head"]),
        ("all-linear", in_blocks(*BLOCK)),
        (None, in_blocks("attn.c_attn")),
    ],
    ids=str,
)
def test_which_layers_match(targets, expected):
    assert find_targets(GPT2LMHeadModel(tiny_config()), targets) == expected
    adapted = peft_model(targets)
    assert [name for name, _ in adapted.base_model.layers()] == expected


def test_all_linear_leaves_out_the_head_also_when_it_is_not_tied():
    assert find_targets(GPT2LMHeadModel(tiny_config(tie_word_embeddings=False)), "all-linear") == in_blocks(*BLOCK)


def test_a_model_without_a_head_has_all_its_layers_adapted():
    assert find_targets(TwoLayers(), "all-linear") == ["first", "second"]


@pytest.mark.parity
@pytest.mark.parametrize("targets", [*TARGETS.values(), ["c_proj"], "lm_head", ["1.mlp.c_fc"]], ids=str)
def test_peft_chooses_the_same_layers(targets):
    model = tiny_model()
    twin = peft_twin(model, LoraConfig(target_modules=targets))
    assert find_targets(model, targets) == twin.base_model.targeted_module_names


LEAVES = "c_attn, c_fc, c_proj, lm_head"


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (["c_attm"], ["'c_attm'", "did you mean 'c_attn'", LEAVES]),
        (["c_attn", "c_porj"], ["'c_porj'", "'c_proj'", LEAVES]),  # one wrong name among several
        (["q_attn", "v_attn"], ["'q_attn'", "did you mean 'c_attn'", LEAVES]),
        (["c_attn", "v_attn"], ["'v_attn'", "did you mean 'c_attn'", LEAVES]),
        (["q_proj", "v_proj"], ["'q_proj'", "'c_proj'", LEAVES]),
        (["query_key_value"], ["'query_key_value'", LEAVES]),
        (["attn.c_fc"], ["'attn.c_fc'", LEAVES]),
        (["proj"], ["'proj'", "'c_proj'", LEAVES]),  # an ending counts from a dot on
        (["multi_head_self_attn"], ["did you mean 'c_attn'", LEAVES]),  # far off, but for the last word
        (["attn"], ["'transformer.h.0.attn' is a GPT2Attention", "linear layers and embeddings"]),
        (["c_attn", "ln_f"], ["'transformer.ln_f' is a LayerNorm", "linear layers and embeddings"]),
        (["ln_1"], ["'transformer.h.0.ln_1' is a LayerNorm"]),
        ("c_attn", ["'c_attn'", LEAVES]),  # a string must match the whole name
        (r".*\.c_attm", [r"c_attm", LEAVES]),
        (r".*", ["linear layers and embeddings"]),
        (r"all_linear", ["'all_linear'", LEAVES]),
        ("", ["''", LEAVES]),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["get_peft_model", "add_adapter"])
def test_a_wrong_target_is_answered_in_words_and_changes_nothing(targets, parts, how):
    model = tiny_model()
    adapted = peft_model(["mlp.c_fc"], model) if how == "add_adapter" else None
    before = snapshot(adapted or model)
    config = LoraConfig(target_modules=targets)
    message = refusal(
        ValueError, lambda: adapted.add_adapter("second", config) if adapted else get_peft_model(model, config)
    )
    for part in parts:
        assert part in message
    assert snapshot(adapted or model) == before
    if adapted:
        assert list(adapted.peft_config) == ["default"]


def test_the_snippet_from_the_tutorials_points_to_c_attn():
    with pytest.raises(ValueError, match=r"no layer matches 'q_attn'; did you mean 'c_attn'\?"):
        get_peft_model(tiny_model(), LoraConfig(r=8, target_modules=["q_attn", "v_attn"]))


def test_a_model_of_no_known_kind_needs_targets():
    with pytest.raises(ValueError, match="no usual target_modules are known for a model of type None"):
        get_peft_model(TwoLayers(), LoraConfig())


def test_a_second_adapter_finds_layers_that_are_wrapped_already():
    adapted = peft_model("all-linear")
    assert find_targets(adapted.base_model.model, "all-linear") == in_blocks(*BLOCK)
    assert find_targets(adapted.base_model.model, ["c_attn"]) == in_blocks("attn.c_attn")
    for inside in (["base_layer"], ["default"], ["lora_A"], r".*base_layer", r".*lora_A.*"):
        with pytest.raises(ValueError, match="no layer matches"):
            find_targets(adapted.base_model.model, inside)


def test_any_module_tree_can_be_adapted(rng):
    model, x = TwoLayers(), rng.standard_normal((4, 6)).astype(np.float32)
    expected = model(x).data
    with pytest.warns(UserWarning, match="fan_in_fan_out set to True, as Conv1D"):
        adapted = PeftModel(model, LoraConfig(target_modules=["second"]))
    assert isinstance(adapted.get_base_model().first, nn.Linear)
    np.testing.assert_array_equal(adapted(x).data, expected)
    assert [name for name, p in adapted.named_parameters() if p.requires_grad] == [
        "base_model.model.second.lora_A.default.weight",
        "base_model.model.second.lora_B.default.weight",
    ]


def test_a_target_in_one_block_leaves_the_others_alone():
    adapted = peft_model(["transformer.h.1.attn.c_attn"])
    blocks = adapted.get_base_model().transformer.h
    assert isinstance(blocks[0].attn.c_attn, nn.Conv1D)
    assert isinstance(blocks[1].attn.c_attn.base_layer, nn.Conv1D)
    assert adapted(some_ids(adapted.config)).logits.shape == (2, 9, 31)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"exclude_modules": ["mlp.c_proj"]}, in_blocks("attn.c_attn", "attn.c_proj", "mlp.c_fc")),
        (
            {"exclude_modules": ["c_proj", "0.attn.c_attn"]},
            ["transformer.h.0.mlp.c_fc", *in_blocks("attn.c_attn", "mlp.c_fc", blocks=[1])],
        ),
        ({"exclude_modules": r".*\.0\..*"}, in_blocks(*BLOCK, blocks=[1])),
        ({"exclude_modules": r"c_proj"}, in_blocks(*BLOCK)),  # a string must match the whole name
        ({"exclude_modules": ["nothing_here"]}, in_blocks(*BLOCK)),
        ({"layers_to_transform": 1}, in_blocks(*BLOCK, blocks=[1])),
        ({"layers_to_transform": [0]}, in_blocks(*BLOCK, blocks=[0])),
        ({"layers_to_transform": [0, 1, 7]}, in_blocks(*BLOCK)),
        ({"layers_to_transform": 0, "layers_pattern": "h"}, in_blocks(*BLOCK, blocks=[0])),
        ({"layers_to_transform": 0, "layers_pattern": ["layers", "h"]}, in_blocks(*BLOCK, blocks=[0])),
        ({"layers_to_transform": [1], "exclude_modules": ["c_proj"]}, in_blocks("attn.c_attn", "mlp.c_fc", blocks=[1])),
    ],
    ids=str,
)
def test_what_is_left_out(options, expected):
    targets = ["c_attn", "c_fc", "c_proj"]
    assert find_targets(tiny_model(), targets, **options) == expected
    assert [name for name, _ in peft_model(targets, **options).base_model.layers()] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"exclude_modules": ["c_attn"]},
        {"exclude_modules": r".*attn.*"},
        {"layers_to_transform": 2},
        {"layers_to_transform": [5, 6]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"layers_to_transform": 0, "exclude_modules": ["h.0.attn.c_attn"]},
    ],
    ids=str,
)
def test_when_nothing_is_left_that_is_an_error_and_nothing_changes(options):
    model = tiny_model()
    before = snapshot(model)
    assert "leave none of the target_modules" in refusal(ValueError, lambda: peft_model(["c_attn"], model, **options))
    assert snapshot(model) == before


def test_the_first_pattern_that_matches_gives_a_layer_its_rank_and_alpha():
    rank, alpha = {"h.1.attn.c_attn": 5, "c_attn": 2, r"c_.*": 3}, {r"mlp\.c_fc": 24, "attn": 99}
    model = peft_model(["c_attn", "c_fc"], rank_pattern=rank, alpha_pattern=alpha)
    found = {name: (layer.r["default"], layer.scaling["default"]) for name, layer in model.base_model.layers()}
    assert found == {
        "transformer.h.0.attn.c_attn": (2, 8 / 2),
        "transformer.h.0.mlp.c_fc": (3, 24 / 3),
        "transformer.h.1.attn.c_attn": (5, 8 / 5),
        "transformer.h.1.mlp.c_fc": (3, 24 / 3),
    }


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        {"exclude_modules": ["mlp.c_proj"]},
        {"exclude_modules": r".*\.0\.mlp.*"},
        {"layers_to_transform": 1},
        {"layers_to_transform": [0, 1]},
        {"layers_to_transform": [1], "layers_pattern": "h"},
        {"layers_to_transform": [1], "layers_pattern": ["h"], "exclude_modules": ["c_attn"]},
        {"rank_pattern": {"c_attn": 2, r"h\.1\.mlp\.c_proj": 5}},
        {"rank_pattern": {"attn.c_proj": 2, "c_proj": 5}, "alpha_pattern": {"c_proj": 1, r".*\.0\.mlp\.c_fc": 30}},
        {"use_rslora": True},
        {"use_rslora": True, "rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_attn": 16}},
    ],
    ids=str,
)
def test_peft_adapts_the_same_layers_with_the_same_ranks_and_scalings(options):
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["c_attn", "c_fc", "c_proj"], init_lora_weights=False, fan_in_fan_out=True
    )
    config = dataclasses.replace(config, **options)
    twin, model = peft_twin(tiny_model(), config), get_peft_model(tiny_model(), config)
    layers = dict(model.base_model.layers())
    assert list(layers) == twin.base_model.targeted_module_names
    for name, layer in layers.items():
        theirs = twin.base_model.model.get_submodule(name)
        assert (layer.r, layer.lora_alpha, layer.scaling) == (theirs.r, theirs.lora_alpha, theirs.scaling)
    assert model.get_nb_trainable_parameters() == twin.get_nb_trainable_parameters()
    copy_parameters(twin, model)
    assert relative(logits_of(model), logits_of(twin)) < 2e-5


def test_a_layer_named_whole_passes_the_filter_of_blocks():
    found = find_targets(tiny_model(), ["c_attn", "lm_head"], layers_to_transform=[0])
    assert found == ["transformer.h.0.attn.c_attn", "lm_head"]
    whole = "transformer.h.1.mlp.c_fc"
    assert find_targets(tiny_model(), ["c_attn", whole], layers_to_transform=[0])[-1] == whole
    assert find_targets(tiny_model(), ["c_attn", "lm_head"], ["lm_head"], [0]) == ["transformer.h.0.attn.c_attn"]
