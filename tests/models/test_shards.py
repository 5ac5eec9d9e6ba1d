"""Parameters that a batch, or one of its shards, does not use: the same gradients in any number of shards."""

import numpy as np
import pytest
from lora_helpers import peft_model, relative, some_ids, tiny_llama, tiny_model

from lora_np import AdamW, LoraConfig, nn
from lora_np.autograd import threads


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)


def with_an_unused_parameter():
    model = tiny_model()
    model.unused = nn.Parameter(np.ones(3, np.float32))
    return model


def with_nothing_used_but_one():
    model = with_an_unused_parameter().requires_grad_(False)
    model.unused.requires_grad = model.transformer.ln_f.bias.requires_grad = True
    return model


def with_everything_trainable():
    model = peft_model()
    model.add_adapter("b", LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True))
    return model.requires_grad_(True)


def with_only_an_inactive_adapter_and_a_head():
    model = with_everything_trainable().requires_grad_(False)
    for name, p in model.named_parameters():
        p.requires_grad = ".b." in name or "ln_f" in name
    return model


def with_an_unused_copy():
    model = peft_model(["q_proj"], tiny_llama(), modules_to_save=["lm_head"])
    model.add_adapter("b", LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]))
    return model.requires_grad_(True)


def with_a_block_left_out():
    model = tiny_model()
    model.transformer.h[0].forward = lambda x, context: x
    return model


MAKE = [
    with_an_unused_parameter,
    with_nothing_used_but_one,
    with_everything_trainable,
    with_only_an_inactive_adapter_and_a_head,
    with_an_unused_copy,
    with_a_block_left_out,
]


def gradients(model, shards, rounds=1, **told):
    """{name: gradient or None} of one backward pass or several that add up."""
    model.zero_grad()
    ids = some_ids(model.config, batch=6)
    with threads.limit_threads(shards):
        for _ in range(rounds):
            loss = model(input_ids=ids, labels=ids, **told).loss
            loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_alike(found, expected):
    assert any(g is not None for g in expected.values())
    for name, g in expected.items():
        assert (found[name] is None) == (g is None), name
        assert g is None or relative(found[name], g) < 1e-5, name


@pytest.mark.parametrize("rounds", [1, 3], ids=["once", "added up"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("make", MAKE)
def test_what_is_not_used_gets_no_gradient_in_any_number_of_shards(make, checkpointing, rounds):
    model = make()
    if checkpointing:
        model.gradient_checkpointing_enable()
    expected = gradients(model, 1, rounds)
    for shards in (2, 3):
        assert_alike(gradients(model, shards, rounds), expected)
    unused = {name for name, g in expected.items() if g is None}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable & unused
    assert trainable - unused


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_backward_inside_a_disabled_block(shards, checkpointing):
    """What the forward pass used gets a gradient, and nothing else, wherever backward is called."""
    model = with_everything_trainable()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = some_ids(model.config, batch=6)
    expected = gradients(model, 1)
    with threads.limit_threads(shards):
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        with model.disable_adapter():
            loss.backward()
        assert_alike({name: p.grad for name, p in model.named_parameters()}, expected)
        model.zero_grad()
        with model.disable_adapter():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (".lora_" in name), name


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_nothing_at_all_to_train_is_said(shards):
    model = with_only_an_inactive_adapter_and_a_head()
    for name, p in model.named_parameters():
        p.requires_grad = ".b." in name
    ids = some_ids(model.config, batch=6)
    with threads.limit_threads(shards):
        loss = model(input_ids=ids, labels=ids).loss
        with pytest.raises(RuntimeError, match="does not require a gradient"):
            loss.backward()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_rows_that_leave_an_adapter_out_give_it_no_gradient(checkpointing):
    model = with_everything_trainable()
    if checkpointing:
        model.gradient_checkpointing_enable()
    names = ["default"] * 3 + ["__base__"] * 3
    expected = gradients(model, 1, adapter_names=names)
    assert_alike(gradients(model, 2, adapter_names=names), expected)
    assert all(g is None for name, g in expected.items() if ".b." in name)
    assert all(g is not None for name, g in expected.items() if ".lora_A.default." in name)


def test_an_optimizer_passes_over_what_has_no_gradient():
    model = with_an_unused_parameter()
    with threads.limit_threads(2):
        ids = some_ids(model.config, batch=4)
        optimizer = AdamW(model.parameters(), lr=0.1)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    np.testing.assert_array_equal(model.unused.data, 1)
