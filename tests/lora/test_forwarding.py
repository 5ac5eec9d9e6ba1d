"""A PeftModel has the attributes of its LoraModel and of the model; a LoraModel does what a PeftModel does."""

import copy
import pickle
import threading

import numpy as np
import pytest
from lora_helpers import logits_of, peft_model, tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.lora.forwarding import ON_BOTH
from lora_np.lora.peft_model import PeftModel


def two_adapters():
    model = peft_model(["c_attn"], init_lora_weights=False)
    model.add_adapter("b", LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True))
    return model


def test_the_models_attributes_are_had():
    model = peft_model(["c_attn"])
    inner = model.base_model.model
    assert model.transformer is inner.transformer
    assert model.get_input_embeddings() is inner.transformer.wte
    assert model.config is inner.config
    assert model.model is inner
    assert model.base_model.lm_head is inner.lm_head
    assert model.dtype == np.float32


@pytest.mark.parametrize("part", ["", "base_model"])
def test_a_missing_one_is_named_with_both_classes(part):
    model = peft_model(["c_attn"])
    model = getattr(model, part) if part else model
    with pytest.raises(AttributeError, match=f"^{type(model).__name__} of GPT2LMHeadModel has no attribute 'nothing'$"):
        model.nothing  # noqa: B018
    assert not hasattr(model, "nothing")
    assert not hasattr(model, "_ipython_display_")
    assert getattr(model, "nothing", 3) == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole(copied):
    model = two_adapters()
    model.base_model.disable_adapter_layers()
    other = copied(model)
    assert other.active_adapters == ["default"]
    assert list(other.peft_config) == ["default", "b"]
    np.testing.assert_array_equal(logits_of(other), logits_of(model))
    other.base_model.enable_adapter_layers()
    other.set_adapter("b")
    assert not np.array_equal(logits_of(other), logits_of(tiny_model()))


def test_half_made_objects_have_no_attributes_of_others():
    half = PeftModel.__new__(PeftModel)
    assert not hasattr(half, "transformer")
    assert not hasattr(half, "__deepcopy__")


def test_what_is_done_on_base_model_is_done_on_both():
    assert all(hasattr(PeftModel, name) for name in ON_BOTH)  # or they would ask each other for ever
    model = two_adapters()
    model.base_model.set_adapter("b")
    assert model.active_adapters == model.base_model.active_adapters == ["b"]
    expected = logits_of(model)
    model.base_model.merge_adapter()
    assert model.base_model.merged == ["b"]
    np.testing.assert_allclose(logits_of(model), expected, rtol=1e-4, atol=1e-5)
    model.base_model.unmerge_adapter()
    model.base_model.delete_adapter("default")
    assert list(model.peft_config) == ["b"]
    np.testing.assert_allclose(logits_of(model.base_model.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)


def test_layers_switched_off_are_the_base_until_they_are_switched_on():
    model = two_adapters()
    adapted, ids = logits_of(model), np.array([[1, 2, 3]])
    model.base_model.disable_adapter_layers()
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert model.get_nb_trainable_parameters()[0] == 0
    np.testing.assert_array_equal(
        model.generate(ids, max_new_tokens=3, do_sample=False),
        tiny_model().generate(ids, max_new_tokens=3, do_sample=False),
    )
    with model.disable_adapter(), pytest.raises(RuntimeError, match="outside of the block"):
        model.base_model.enable_adapter_layers()
    model.set_adapter("default")  # which does not switch them on
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    model.base_model.enable_adapter_layers()
    np.testing.assert_array_equal(logits_of(model), adapted)
    assert model.get_nb_trainable_parameters()[0] > 0


def test_a_block_that_is_computed_again_finds_what_it_found_first():
    """Checkpointing, the layers switched off between forward and backward: the gradients are the forward's."""
    found = []
    for checkpointing in (False, True):
        model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False))
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            p.data = np.random.default_rng(i).standard_normal(p.shape).astype(np.float32) * 0.2
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        ids = np.array([[1, 2, 3, 4]])
        loss = model(input_ids=ids, labels=ids).loss
        model.base_model._switch(False)
        loss.backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-6)


def test_threads_read_attributes_while_others_call():
    model, wrong = two_adapters(), []

    def read():
        for _ in range(200):
            if model.transformer is not model.base_model.model.transformer or hasattr(model, "nothing"):
                wrong.append(1)

    workers = [threading.Thread(target=read) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(3):
        logits_of(model)
    for worker in workers:
        worker.join()
    assert not wrong


def test_an_adapted_layer_has_the_base_layers_weight():
    layer = peft_model(["c_attn"]).transformer.h[0].attn.c_attn
    assert layer.weight is layer.base_layer.weight
    assert layer.bias is layer.base_layer.bias
    assert layer.get_base_layer() is layer.base_layer
    with pytest.raises(AttributeError, match="no attribute 'wait'"):
        layer.wait  # noqa: B018
