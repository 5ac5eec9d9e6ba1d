"""A function that fails half way leaves the modules it was given as they were."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
from interruption_helpers import assert_all_or_nothing

from lora_np import nn


@dataclass
class Settings:
    size: int = 3


class Part(nn.Module):
    """A parameter, a list, a part without a name of its own, and settings."""

    def __init__(self):
        self.weight = nn.Parameter(np.zeros(3))
        self.weight.grad = np.ones(3)
        self.names = ["a"]
        self.table = {"hidden": nn.Linear(2, 2)}
        self.config = Settings()


@nn.all_or_nothing
def change(part, error=None):
    """Everything that can be changed; then the error."""
    part.weight.data, part.weight.grad = part.weight.data + 1, None
    part.weight.requires_grad = False
    part.names = [*part.names, "b"]
    part.new = nn.Parameter(np.ones(1))
    part.table["hidden"].bias = None
    part.config.size = 4
    part.weight = nn.Parameter(np.ones(2))
    if error is not None:
        raise error
    return "done"


def test_what_succeeds_is_kept():
    part = Part()
    assert change(part) == "done"
    assert (part.names, part.config.size, part.weight.shape) == (["a", "b"], 4, (2,))


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError(), SystemExit()])
@pytest.mark.parametrize("by_name", [False, True])
def test_what_fails_leaves_no_trace(error, by_name):
    part = Part()
    weight, hidden, before = part.weight, part.table["hidden"], dict(vars(part))
    data, bias = weight.data, hidden.bias
    with pytest.raises(type(error)) as caught:
        change(part=part, error=error) if by_name else change(part, error)
    assert caught.value is error
    assert vars(part) == before
    assert part.weight is weight
    assert weight.data is data
    assert (weight.grad == 1).all()
    assert weight.requires_grad
    assert part.names == ["a"]
    assert part.config.size == 3
    assert hidden.bias is bias


def test_a_second_interruption_while_all_is_put_back(monkeypatch):
    all_or_nothing = sys.modules["lora_np.nn.all_or_nothing"]
    put_back, times = all_or_nothing._put_back, []

    def interrupted_once(state):
        times.append(state)
        if len(times) == 1:
            raise KeyboardInterrupt
        put_back(state)

    monkeypatch.setattr(all_or_nothing, "_put_back", interrupted_once)
    part = Part()
    with pytest.raises(KeyboardInterrupt):
        change(part, ValueError("no"))
    assert (part.names, part.config.size, part.weight.shape) == (["a"], 3, (3,))


def two_layers():
    model = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)])
    for i, p in enumerate(model.parameters()):
        p.data, p.grad = np.full(p.shape, i, np.float32), np.full(p.shape, -i, np.float32)
    return model


def state(model):
    return {name: (p.dtype, p.data.tobytes(), p.grad.dtype) for name, p in model.named_parameters()}


CHANGES = {
    "to": lambda model: model.to(dtype=np.float64),
    "load_state_dict": lambda model: model.load_state_dict({n: a + 1 for n, a in model.state_dict().items()}),
}


@pytest.mark.parametrize("action", CHANGES.values(), ids=CHANGES)
def test_a_module_is_moved_and_filled_wholly_or_not_at_all(action):
    assert_all_or_nothing(two_layers, action, state)


@pytest.mark.gpu
def test_too_little_memory_on_the_gpu_leaves_the_module_where_it_was(monkeypatch):
    from lora_np.nn import placement

    left, to_device = [2], placement.to_device

    def full(array, device):
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return to_device(array, device)

    monkeypatch.setattr(placement, "to_device", full)
    model = two_layers()
    before = state(model)
    with pytest.raises(MemoryError):
        model.to("cuda")
    assert model.device == "cpu"
    assert state(model) == before
