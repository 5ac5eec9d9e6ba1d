"""Activations as layers, and lists of layers, against torch's."""

import numpy as np
import pytest
from helpers import check_gradients, compare_with_torch

from lora_np import nn
from lora_np.autograd import Tensor

LAYERS = {
    "Identity": lambda nn: nn.Identity(),
    "ReLU": lambda nn: nn.ReLU(inplace=False),
    "GELU": lambda nn: nn.GELU(),
    "GELU by tanh": lambda nn: nn.GELU(approximate="tanh"),
    "SiLU": lambda nn: nn.SiLU(),
    "Tanh": lambda nn: nn.Tanh(),
    "Softmax": lambda nn: nn.Softmax(dim=0),
    "LogSoftmax": lambda nn: nn.LogSoftmax(dim=-1),
    "in a row": lambda nn: nn.Sequential(nn.Tanh(), nn.Softmax(dim=-1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(xp, rng, name):
    check_gradients(LAYERS[name](nn), xp.asarray(rng.standard_normal((3, 4))))


@pytest.mark.parity
@pytest.mark.parametrize("name", LAYERS)
def test_like_torch(xp, rng, name):
    import torch

    compare_with_torch(LAYERS[name](nn), LAYERS[name](torch.nn), [rng.standard_normal((3, 4))], xp, "float64")


def test_a_row_of_layers_is_a_list_too():
    made = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    assert made.append(nn.Linear(2, 1)) is made
    assert [name for name, _ in made.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(made) == 3
    assert made[-1].out_features == 1
    assert made(Tensor(np.zeros((5, 3), np.float32))).shape == (5, 1)
