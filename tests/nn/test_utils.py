"""Clipping against PyTorch's; its direction and its norm."""

import numpy as np
import pytest

from lora_np.autograd.devices import to_numpy
from lora_np.nn import Parameter, float_type
from lora_np.nn.utils import clip_grad_norm_, clip_grad_value_

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


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [1, 200])  # squares of 300 are more than float16 holds; 30,000 numbers add up
def test_norms_of_gradients_in_16_bits_are_torchs(rng, dtype, size):
    import torch

    pytest.importorskip("ml_dtypes")
    array = (size * rng.standard_normal((300, 100))).astype(np.float32)
    (ours,), theirs = parameters([array.astype(float_type(dtype))]), torch.nn.Parameter(torch.tensor(array))
    ours.grad, theirs.grad = ours.data.copy(), torch.tensor(array).to(getattr(torch, dtype)).float()
    expected = torch.nn.utils.clip_grad_norm_([theirs], 1.0).item()
    assert clip_grad_norm_([ours], 1.0) == pytest.approx(expected, rel=1e-5)
    assert ours.grad.dtype == ours.dtype
    np.testing.assert_allclose(ours.grad.astype(np.float32), theirs.grad.numpy(), rtol=1e-2, atol=1e-6)


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


def test_the_norm_is_a_number_with_torchs_item():
    norm = clip_grad_norm_(parameters([np.zeros(3)]), 1.0)
    assert isinstance(norm, float)
    assert norm.item() == 0.0


def test_one_parameter_needs_no_list():
    (p,) = parameters([np.zeros(2)])
    p.grad = np.array([3.0, 4.0])
    assert clip_grad_norm_(p, 1.0) == 5.0


def test_what_is_not_done_is_refused():
    (p,) = parameters([np.zeros(2)])
    p.grad = np.array([np.inf, 0.0])
    with pytest.raises(RuntimeError, match="the norm of the gradients is inf: nothing was scaled"):
        clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="norm_type should be 2, the Euclidean norm, got 1"):
        clip_grad_norm_([p], 1.0, norm_type=1)


@pytest.mark.parity
def test_values_are_clipped_as_in_torch(rng):
    import torch

    grads = gradients(rng)
    ours, theirs = parameters(grads), [torch.nn.Parameter(torch.tensor(g)) for g in grads]
    for mine, other, g in zip(ours, theirs, grads, strict=True):
        mine.grad, other.grad = g.copy(), torch.tensor(g)
    clip_grad_value_(ours, 0.5)
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.grad, other.grad.numpy())
