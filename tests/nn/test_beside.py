"""Layers called together: one with a `forward` of its own is called itself. As on a GPU, but without one."""

import sys

import numpy as np
import pytest
from lora_helpers import logits_of, peft_model, tiny_llama

from lora_np.autograd import functional as F

GATE = "model.layers.0.mlp.gate_proj"


def linears(x, parts):
    """What the operation on a GPU gives."""
    updates = [0.0 if A is None else F.linear(F.linear(x, A), B) * s for *_, A, B, s in parts]
    return [F.linear(x, W, b) + update for (W, b, *_), update in zip(parts, updates, strict=True)]


def plain():
    return tiny_llama(), GATE


def adapted():
    return peft_model(["q_proj", "gate_proj"], tiny_llama(), fan_in_fan_out=False), f"base_model.model.{GATE}"


def under_an_adapter():
    model, name = adapted()
    return model, f"{name}.base_layer"


@pytest.mark.parametrize("make", [plain, adapted, under_an_adapter])
@pytest.mark.parametrize("together", [False, True])
def test_a_forward_of_a_layers_own_is_called(make, together, monkeypatch):
    model, name = make()
    layer = model.requires_grad_(False).get_submodule(name)
    expected, called = logits_of(model), []
    if together:
        beside = sys.modules["lora_np.nn.beside"]
        monkeypatch.setattr(beside, "float32_or_16_bits", lambda arrays: True)
        monkeypatch.setattr(beside, "linears", lambda x, parts: called.append("together") or linears(x, parts))
    forward = layer.forward
    layer.forward = lambda x: called.append("own") or forward(x)
    np.testing.assert_allclose(logits_of(model), expected, rtol=1e-5, atol=1e-5)
    assert called.count("own") == 1
    assert ("together" in called) == together
