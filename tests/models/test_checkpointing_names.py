"""Transformers' names for blocks that are computed again in the backward pass: the older ones and the later ones."""

import inspect

import pytest
from classifier_helpers import tiny_classifier
from lora_helpers import refusal, some_ids, tiny_llama, tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.training import TrainingArguments

NAMES = ("gradient_checkpointing", "activation_checkpointing")
LATER = ["activation_checkpointing_enable", "activation_checkpointing_disable", "is_activation_checkpointing"]
OTHERS = ["is_gradient_checkpointing", "supports_gradient_checkpointing", "disable_input_require_grads"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("adapted", [False, True])
def test_on_and_off(name, adapted):
    model = tiny_llama()
    model = get_peft_model(model, LoraConfig(r=2)) if adapted else model
    assert not getattr(model, f"is_{name}")
    getattr(model, f"{name}_enable")({"use_reentrant": False})
    model.enable_input_require_grads()
    assert [getattr(model, f"is_{other}") for other in NAMES] == [True, True]
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    model.disable_input_require_grads()
    getattr(model, f"{name}_disable")()
    assert not getattr(model, f"is_{name}")


def test_what_is_not_here_is_refused():
    model = tiny_model()
    for name in NAMES:
        enable = getattr(model, f"{name}_enable")
        enable(every_n_layers=1, offload=False)
        assert "every_n_layers=2 is not supported: every block" in refusal(
            ValueError, lambda f=enable: f(every_n_layers=2)
        )
        assert "offload=True is not supported" in refusal(ValueError, lambda f=enable: f(offload=True))
        with pytest.raises(TypeError):
            enable(every=2)


def test_a_run_takes_both_names():
    assert TrainingArguments(steps=1, activation_checkpointing=True).gradient_checkpointing
    args = TrainingArguments(steps=1, activation_checkpointing=False, activation_checkpointing_kwargs={"offload": True})
    assert not args.gradient_checkpointing
    given = {"activation_checkpointing": True, "gradient_checkpointing": False}
    assert "two names of one thing" in refusal(ValueError, lambda: TrainingArguments(steps=1, **given))


@pytest.mark.parity
def test_the_names_are_transformers():
    import transformers

    model = transformers.PreTrainedModel
    for own in (tiny_llama(), tiny_classifier()):
        for name in (*LATER, *OTHERS):
            assert hasattr(model, name), name
            assert hasattr(own, name), name
    theirs = inspect.signature(model.activation_checkpointing_enable).parameters
    assert [*theirs][1:] == ["activation_checkpointing_kwargs", "every_n_layers", "offload"]
