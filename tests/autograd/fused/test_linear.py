"""The linear layer and LoRA's: y = x Wᵀ + b + s (m∘x) Aᵀ Bᵀ, with the weight stored either way round."""

import weakref

import numpy as np
import pytest
from helpers import TOLERANCE, assert_close, captured, check_pair, compare_with_torch

from lora_np.autograd import functional as F
from lora_np.autograd import fused
from lora_np.autograd.devices import is_array

SHAPES = [(3,), (4, 3), (2, 4, 3), (2, 1, 2, 3), (0, 3), (2, 0, 3)]


def weights(rng, xp, flipped):
    """weight, bias, A, B as arrays of `xp`, the weight as (in, out) if `flipped`."""
    shapes = [(3, 5) if flipped else (5, 3), (5,), (2, 3), (5, 2)]
    return [xp.asarray(rng.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear(xp, rng, shape, biased, flipped):
    x = xp.asarray(rng.standard_normal(shape))
    weight, bias, _, _ = weights(rng, xp, flipped)
    check_pair("linear", (x, weight, bias if biased else None), flipped)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_lora_linear(xp, rng, shape, masked, biased, flipped):
    x = xp.asarray(rng.standard_normal(shape))
    mask = xp.asarray(rng.integers(0, 2, shape) / 0.5) if masked else None
    weight, bias, A, B = weights(rng, xp, flipped)
    check_pair("lora_linear", (x, weight, bias if biased else None, A, B), 0.75, flipped, mask)


@pytest.mark.parametrize("flipped", [False, True])
def test_lora_linear_is_a_linear_layer_with_the_update_added(xp, rng, flipped):
    x = xp.asarray(rng.standard_normal((2, 4, 3)))
    weight, bias, A, B = weights(rng, xp, flipped)
    update = 0.5 * (B @ A)
    merged, _ = fused.linear_forward(x, weight + (update.T if flipped else update), bias, flipped)
    beside, _ = fused.lora_linear_forward(x, weight, bias, A, B, 0.5, flipped)
    assert_close(beside, merged)


def test_at_B_zero_only_B_gets_a_gradient(xp, rng):
    weight, bias, A, B = weights(rng, xp, False)
    x = xp.asarray(rng.standard_normal((4, 3)))
    y, cache = fused.lora_linear_forward(x, weight, bias, A, B * 0, 2.0)
    assert_close(y, x @ weight.T + bias)
    _, _, _, dA, dB = fused.lora_linear_backward(xp.ones_like(y), cache)
    assert float(abs(dA).max()) == 0
    assert float(abs(dB).min()) > 0


def test_by_default_only_the_adapter_is_trained(xp, rng):
    weight, bias, A, B = weights(rng, xp, False)
    y, cache = fused.lora_linear_forward(xp.ones((4, 3)), weight, bias, A, B, 2.0)
    gradients = fused.lora_linear_backward(xp.ones_like(y), cache)
    assert [g is not None for g in gradients] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("needs", "sizes"),
    [
        ((False, False, True), []),
        ((True, False, True), [15]),
        ((False, True, False), [12]),
        ((True, True, True), [12, 15]),
    ],
)
def test_only_what_the_gradients_need_is_kept(xp, rng, needs, sizes):
    weight, bias, _, _ = weights(rng, xp, False)
    _, cache = fused.linear_forward(xp.ones((4, 3)), weight, bias, needs=needs)
    assert sorted(x.size for x in captured(cache) if is_array(x)) == sizes


def test_the_mask_is_kept_only_for_the_gradient_of_x(xp, rng):
    weight, bias, A, B = weights(rng, xp, False)
    for needs, kept in (((False, False, False, True, True), False), ((True, False, False, True, True), True)):
        mask = xp.ones((4, 3))
        alive = weakref.ref(mask)
        _, cache = fused.lora_linear_forward(xp.ones((4, 3)), weight, bias, A, B, 2.0, mask=mask, needs=needs)
        del mask
        assert (alive() is not None) == kept
        assert cache


def test_inputs_that_are_not_contiguous(xp, rng):
    weight, bias, A, B = weights(rng, xp, False)
    x = xp.asarray(rng.standard_normal((3, 4, 2))).T
    check_pair("linear", (x, xp.asarray(weight.T.copy()).T, bias))
    check_pair("lora_linear", (x, weight, bias, A, B), 1.5)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flipped", [False, True])
def test_linear_like_torch(xp, rng, dtype, flipped):
    import torch

    def theirs(x, weight, bias):
        return torch.nn.functional.linear(x, weight.T if flipped else weight, bias)

    arrays = [rng.standard_normal(s) for s in ((2, 7, 16), (16, 24) if flipped else (24, 16), (24,))]
    compare_with_torch(lambda *inputs: F.linear(*inputs, flipped), theirs, arrays, xp, dtype)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lora_linear_like_torch(xp, rng, dtype):
    import torch

    def theirs(x, weight, bias, A, B):
        f = torch.nn.functional.linear
        return f(x, weight, bias) + f(f(x, A), B) * 0.5

    arrays = [rng.standard_normal(s) for s in ((2, 7, 16), (24, 16), (24,), (4, 16), (24, 4))]
    compare_with_torch(lambda *inputs: F.lora_linear(*inputs, 0.5), theirs, arrays, xp, dtype)


def test_float32_stays_near_float64(xp, rng):
    arrays = [rng.standard_normal(s) for s in ((64, 128), (96, 128), (96,), (8, 128), (96, 8))]
    exact, _ = fused.lora_linear_forward(*map(xp.asarray, arrays), 2.0)
    single, _ = fused.lora_linear_forward(*(xp.asarray(a, dtype="float32") for a in arrays), 2.0)
    assert single.dtype == np.float32
    assert_close(single, exact.astype("float32"), rtol=TOLERANCE["float32"]["rtol"], atol=1e-3)
