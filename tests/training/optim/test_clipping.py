"""Clipping against PyTorch's; its direction and its norm."""

import numpy as np
import pytest

from lora_np.autograd.devices import to_numpy
from lora_np.nn import Parameter
from lora_np.training import clip_grad_norm_

SHAPES = [(4, 3), (5,), (2, 3, 2)]


def gradients(rng):
    """Their sizes differ widely, as they do in training."""
    return [10.0 ** rng.uniform(-3, 1) * rng.standard_normal(shape) for shape in SHAPES]


def parameters(arrays, xp=np):
    return [Parameter(xp.array(array)) for array in arrays]


@pytest.mark.parity
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 5.0, 1e3])
def test_clipping_as_in_torch(rng, max_norm):
    import torch

    grads = gradients(rng)
    ours, theirs = parameters(grads), [torch.nn.Parameter(torch.tensor(g)) for g in grads]
    for mine, other, g in zip(ours, theirs, grads, strict=True):
        mine.grad, other.grad = g.copy(), torch.tensor(g)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    assert clip_grad_norm_(ours, max_norm) == pytest.approx(expected, rel=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("max_norm", "after"), [(1.0, 1.0), (13.0, 13.0), (20.0, 13.0)])
def test_clipping_keeps_the_direction(xp, max_norm, after):
    """The norm is the joint one, √(3² + 4² + 12²) = 13, of the gradients there are."""
    params = parameters([np.zeros(2), np.zeros((1, 1)), np.zeros(5)], xp)
    params[0].grad, params[1].grad = xp.array([3.0, 4.0]), xp.array([[12.0]])
    assert clip_grad_norm_(iter(params), max_norm) == 13.0
    clipped = [*to_numpy(params[0].grad), *to_numpy(params[1].grad)[0]]
    np.testing.assert_allclose(clipped, np.array([3.0, 4.0, 12.0]) * after / 13, rtol=1e-5)
    assert params[2].grad is None


def test_clipping_without_any_gradient():
    assert clip_grad_norm_(parameters([np.zeros(3)]), 1.0) == 0.0
