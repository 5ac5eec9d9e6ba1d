"""LayerNorm and RMSNorm: central differences, torch, and the rows that are hard."""

import numpy as np
import pytest
from helpers import assert_close, by_reference, captured, check_pair, compare_with_torch

from lora_np.autograd import functional as F
from lora_np.autograd import fused
from lora_np.autograd.devices import is_array, to_numpy


def inputs(rng, xp, shape):
    return [xp.asarray(rng.standard_normal(s)) for s in (shape, shape[-1:], shape[-1:])]


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 2, 5), (3, 2), (0, 4)])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_layer_norm(xp, rng, shape, eps):
    check_pair("layer_norm", inputs(rng, xp, shape), eps)


def test_rows_have_mean_0_and_variance_1(xp, rng):
    x = xp.asarray(rng.standard_normal((5, 64)) * 10 + 3)
    y = to_numpy(fused.layer_norm_forward(x, xp.ones(64), xp.zeros(64))[0])
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=-1), 1, rtol=1e-5)


def test_a_row_of_equal_values_and_a_single_channel(xp):
    check_pair("layer_norm", [xp.full((2, 4), 3.0), xp.asarray([1.0, 2, 3, 4]), xp.ones(4)], 0.1)
    y, _ = fused.layer_norm_forward(xp.asarray([[5.0], [-2.0]]), xp.ones(1), xp.asarray([7.0]))
    assert_close(y, np.array([[7.0], [7.0]]))


def test_a_shift_far_from_zero_does_not_spoil_the_variance(xp, rng):
    """The mean of squares minus the square of the mean would lose every digit here."""
    x = rng.standard_normal((4, 32))
    arrays = [xp.asarray(a) for a in (x + 1e7, np.ones(32), np.zeros(32))]
    expected, _ = by_reference("layer_norm", [x, np.ones(32), np.zeros(32)])
    assert_close(fused.layer_norm_forward(*arrays)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("needs", "sizes"),
    [((False, False, True), []), ((False, True, True), [12]), ((True, False, False), [3, 4, 12])],
)
def test_only_what_the_gradients_need_is_kept(xp, rng, needs, sizes):
    _, cache = fused.layer_norm_forward(*inputs(rng, xp, (3, 4)), needs=needs)
    assert sorted(x.size for x in captured(cache) if is_array(x)) == sizes


def test_inputs_that_are_not_contiguous(xp, rng):
    x, weight, bias = inputs(rng, xp, (4, 3, 5))
    check_pair("layer_norm", [x.swapaxes(0, 1), weight[::-1], bias])


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(48,), (3, 7, 48)])
def test_layer_norm_like_torch(xp, rng, dtype, shape):
    import torch

    def theirs(x, weight, bias):
        return torch.nn.functional.layer_norm(x, shape[-1:], weight, bias, 1e-6)

    arrays = [rng.standard_normal(s) for s in (shape, shape[-1:], shape[-1:])]
    compare_with_torch(lambda *inputs: F.layer_norm(*inputs, 1e-6), theirs, arrays, xp, dtype)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 2, 5), (3, 1), (0, 4)])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_rms_norm(xp, rng, shape, eps):
    x, weight, _ = inputs(rng, xp, shape)
    check_pair("rms_norm", [x, weight], eps)


def test_rms_norm_does_not_take_the_mean_away(xp):
    x = xp.asarray([[3.0, 3.0, 3.0]])
    assert_close(fused.rms_norm_forward(x, xp.ones(3), 0.0)[0], np.ones((1, 3)))
    assert_close(fused.layer_norm_forward(x, xp.ones(3), xp.zeros(3))[0], np.zeros((1, 3)))


@pytest.mark.parametrize(("needs", "kept"), [((False, False), 0), ((False, True), 12), ((True, False), 12 + 3 + 4)])
def test_what_rms_norm_keeps(xp, needs, kept):
    _, cache = fused.rms_norm_forward(xp.ones((3, 4)), xp.ones(4), needs=needs)
    held = captured(cache)
    assert sum(a.size for a in held if is_array(a)) == kept


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rms_norm_like_torch(xp, rng, dtype):
    import torch

    compare_with_torch(
        lambda x, weight: F.rms_norm(x, weight, 1e-5),
        lambda x, weight: torch.nn.functional.rms_norm(x, weight.shape, weight, 1e-5),
        [rng.standard_normal((3, 7, 48)) * 3, rng.standard_normal(48)],
        xp,
        dtype,
    )
