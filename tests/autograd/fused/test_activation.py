"""GELU, exact and as GPT-2 has it."""

import math

import numpy as np
import pytest
from helpers import assert_close, check_pair, compare_with_torch

from lora_np.autograd import functional as F
from lora_np.autograd import fused
from lora_np.autograd.backend import to_numpy

PAIR = fused.gelu_forward, fused.gelu_backward
FORMS = ["none", "tanh"]


def formula(x, approximate):
    if approximate == "none":
        return x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 4), (0, 3)])
def test_gelu(xp, rng, shape, approximate):
    x = rng.standard_normal(shape) * 2
    y, _ = fused.gelu_forward(xp.asarray(x), approximate)
    assert_close(y, np.asarray(formula(x, approximate)))
    check_pair(*PAIR, [xp.asarray(x)], approximate)


@pytest.mark.parametrize("approximate", FORMS)
def test_far_from_zero_it_is_zero_or_the_identity(xp, approximate):
    x = xp.asarray([-1000.0, -30.0, 0.0, 30.0, 1000.0])
    y, slope = fused.gelu_forward(x, approximate)
    assert_close(y, np.array([0.0, 0, 0, 30, 1000]))
    assert_close(fused.gelu_backward(xp.ones(5), slope)[0], np.array([0.0, 0, 0.5, 1, 1]))


@pytest.mark.parametrize("approximate", FORMS)
def test_more_values_than_one_block(xp, rng, approximate):
    x = rng.standard_normal((50, 2000))  # 800 kB, four blocks
    y, slope = fused.gelu_forward(xp.asarray(x), approximate)
    assert_close(y, formula(x, approximate))
    differences = (formula(x + 1e-5, approximate) - formula(x - 1e-5, approximate)) / 2e-5
    assert_close(fused.gelu_backward(xp.full(x.shape, 2.0), slope)[0], 2 * differences, rtol=1e-6, atol=1e-8)


def test_the_two_forms_lie_close_together_and_are_not_the_same(xp):
    x = xp.linspace(-5, 5, 101)
    gap = to_numpy(abs(fused.gelu_forward(x, "none")[0] - fused.gelu_forward(x, "tanh")[0])).max()
    assert 1e-5 < gap < 1e-3


@pytest.mark.parametrize("approximate", FORMS)
def test_without_a_gradient_to_come_nothing_is_kept(xp, approximate):
    assert fused.gelu_forward(xp.ones((2, 3)), approximate, needs=(False,))[1] is None


@pytest.mark.parametrize("approximate", FORMS)
def test_inputs_that_are_not_contiguous(xp, rng, approximate):
    check_pair(*PAIR, [xp.asarray(rng.standard_normal((3, 8))).T[::2]], approximate)


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_is_kept(xp, rng, approximate, dtype):
    x = rng.standard_normal(100).astype(dtype)
    y, slope = fused.gelu_forward(xp.asarray(x), approximate)
    assert y.dtype == slope.dtype == dtype
    exact = formula(x.astype(float), approximate)
    np.testing.assert_allclose(to_numpy(y), exact, rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("approximate", FORMS)
def test_gelu_like_torch(xp, rng, dtype, approximate):
    import torch

    compare_with_torch(
        lambda x: F.gelu(x, approximate),
        lambda x: torch.nn.functional.gelu(x, approximate=approximate),
        [rng.standard_normal((3, 7, 48)) * 3],
        xp,
        dtype,
    )
