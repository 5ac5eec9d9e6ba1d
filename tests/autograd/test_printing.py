"""Tensors as text."""

import numpy as np
import pytest

from lora_np import nn
from lora_np.autograd import Tensor


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (Tensor([1.5, 2.0]), "Tensor([1.5, 2. ])"),
        (Tensor(3.14159265), "Tensor(3.1416)"),
        (Tensor([1, 2]), "Tensor([1, 2])"),
        (Tensor([True]), "Tensor([ True])"),
        (Tensor([1.0], requires_grad=True), "Tensor([1.], requires_grad=True)"),
        (Tensor(np.ones(2)), "Tensor([1., 1.], dtype=float64)"),
        (Tensor(np.zeros((0, 3), np.float32)), "Tensor([], shape=(0, 3))"),
        (nn.Parameter(np.ones(2, np.float16)), "Parameter([1., 1.], dtype=float16, requires_grad=True)"),
    ],
)
def test_short_ones_are_shown_whole(tensor, text):
    assert repr(tensor) == text


@pytest.mark.parametrize("shape", [(50257, 768), (100_000,), (12, 30, 40), (4, 8, 64, 64), (2, 2, 2, 2, 2, 2, 2, 2)])
def test_long_ones_take_few_lines(shape):
    text = repr(nn.Parameter(np.zeros(shape, np.float32)))
    assert f"shape={shape}" in text
    assert "..." in text
    assert len(text) < 3000
    assert text.count("\n") < 40
