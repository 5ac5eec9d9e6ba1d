"""Hearing what layers are given while a model runs."""

import numpy as np
import pytest
from lora_helpers import peft_model, some_ids, tiny_model
from start_helpers import no_layer_listens

from lora_np import nn
from lora_np.lora.starts.gather import gather


def heard(model, names, run, **options):
    """[(name, input)] of the calls."""
    found = []
    layers = {name: model.get_submodule(name) for name in names}
    gather(layers, run, lambda name, x: found.append((name, x.copy())), **options)
    return found


def test_each_call_of_each_layer_is_heard_once():
    model = tiny_model()
    ids = some_ids(model.config)
    expected = model(ids).logits.data
    names = ["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc", "lm_head"]
    results = []
    found = heard(model, names, lambda: results.append(model(ids).logits.data))
    assert [name for name, _ in found] == names
    assert [x.shape for _, x in found] == [(2, 9, 16)] * 3
    np.testing.assert_array_equal(results[0], expected)
    np.testing.assert_array_equal(found[0][1], model.transformer.h[0].ln_1(embedded(model, ids)).data)
    assert no_layer_listens(model)


def embedded(model, ids):
    return model.transformer.wte(ids) + model.transformer.wpe(np.arange(ids.shape[1]))


def test_an_adapted_layer_and_a_head_that_computes_the_loss():
    model = peft_model()
    ids = some_ids(model.config)
    prefix = "base_model.model."
    names = [f"{prefix}transformer.h.1.attn.c_attn", f"{prefix}lm_head"]
    assert [name for name, _ in heard(model, names, lambda: model(ids, labels=ids))] == names


def test_a_batch_is_not_cut_into_shards(monkeypatch):
    monkeypatch.setenv("LORA_NP_NUM_THREADS", "2")
    monkeypatch.setattr("lora_np.autograd.threads.LEAST_TOKENS", 1)
    model = tiny_model()
    ids = some_ids(model.config, batch=4)
    found = heard(model, ["transformer.h.0.mlp.c_fc"], lambda: model(ids, labels=ids))
    assert [x.shape for _, x in found] == [(4, 9, 16)]


def test_gradients_that_come_back_are_counted():
    layer, times = nn.Linear(3, 2), []

    def run():
        for _ in range(3):
            layer(layer.weight.data @ np.ones((3, 3), np.float32)).sum().backward()
        layer(np.ones((1, 3), np.float32))  # no gradient comes back through this one

    gather({"layer": layer}, run, on_backward=times.append)
    assert times == ["layer"] * 3
    np.testing.assert_array_equal(layer.bias.grad, 6)


def test_what_is_run_is_a_function():
    with pytest.raises(TypeError, match="should be a function without arguments that calls the model, got a list"):
        heard(tiny_model(), ["lm_head"], [some_ids(tiny_model().config)])


def test_a_layer_that_is_not_called_is_named():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"transformer\.wte was never called: does the run call this very model"):
        heard(model, ["transformer.wte"], lambda: None)
    assert no_layer_listens(model)
