"""Recomputed stretches: the same results and gradients, less kept."""

import tracemalloc

import numpy as np
import pytest
from helpers import assert_close, captured
from lora_helpers import peft_model, relative, some_ids, tiny_llama, tiny_model

from lora_np import manual_seed, no_grad
from lora_np.autograd import Tensor, ops, threads
from lora_np.autograd.random import generator, random_seed
from lora_np.autograd.recompute import recompute


def test_result_and_gradients_are_those_of_the_function(rng):
    x, w = (Tensor(rng.standard_normal((3, 3)), requires_grad=True) for _ in range(2))

    def function(x):
        return (x @ w).tanh() * x

    dy = rng.standard_normal((3, 3))
    plain = function(x)
    plain.backward(dy)
    expected = [x.grad, w.grad]
    x.grad = w.grad = None
    again = recompute(function, x, [w])
    assert_close(again, plain.data)
    again.backward(dy)
    for found, g in zip([x.grad, w.grad], expected, strict=True):
        assert_close(found, g)


def test_only_the_input_is_kept(rng):
    x, w = Tensor(rng.standard_normal((3, 3)), requires_grad=True), Tensor(rng.standard_normal((3, 3)))
    y = recompute(lambda x: (x @ w).tanh().exp(), x, [w])
    kept = [a for a in captured(y.node().backward) if isinstance(a, np.ndarray)]
    assert [a is x.data for a in kept] == [True]


def test_where_nothing_needs_a_gradient_there_is_no_graph(rng):
    x, w = Tensor(rng.standard_normal(3)), Tensor(rng.standard_normal(3))
    assert not recompute(lambda x: x * w, x, [w]).requires_grad


def test_dropout_is_the_same_both_times(rng):
    x = Tensor(rng.standard_normal(1000), requires_grad=True)
    y = recompute(lambda x: ops.dropout(x, 0.5), x, [])
    y.backward(np.ones(1000))
    assert_close(x.grad * x.data, y.data)
    assert (x.grad == 0).sum() > 300


def test_random_numbers_outside_go_on_as_they_would():
    manual_seed(3)
    generator().random()
    expected = generator().random()
    manual_seed(3)
    generator().random()
    with random_seed(1):
        generator().random(5)
    assert generator().random() == expected


def loss_and_gradients(model, ids):
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("make", [tiny_model, tiny_llama, peft_model], ids=["gpt2", "llama", "adapter"])
def test_a_model_with_checkpointing_trains_as_one_without(make, shards, monkeypatch):
    monkeypatch.setattr(threads, "LEAST_TOKENS", 1)
    model = make()
    ids = some_ids(model.config, batch=4)
    with threads.limit_threads(shards):
        loss, expected = loss_and_gradients(model, ids)
        model.gradient_checkpointing_enable()
        found_loss, found = loss_and_gradients(model, ids)
        model.gradient_checkpointing_disable()
    assert abs(found_loss - loss) < 1e-6
    for name, g in expected.items():
        assert (g is None) == (found[name] is None), name
        assert g is None or relative(found[name], g) < 1e-5, name
    with no_grad():
        assert abs(model(input_ids=ids, labels=ids).loss.item() - loss) < 1e-5


def test_it_saves_memory():
    model = tiny_model(n_layer=12, n_embd=32, n_positions=64)
    ids = some_ids(model.config, batch=16, time=64)
    peaks = []
    for enable in (False, True):
        model.gradient_checkpointing = enable
        loss_and_gradients(model, ids)
        model.zero_grad()
        tracemalloc.start()
        loss_and_gradients(model, ids)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.3 * peaks[0]
