"""GELU, exact and as GPT-2 has it; SiLU, SwiGLU and ReLU."""

import numpy as np
import pytest
from helpers import assert_close, by_reference, check_pair, compare_with_torch

from lora_np.autograd import functional as F
from lora_np.autograd import fused
from lora_np.autograd.devices import to_numpy

FORMS = ["none", "tanh"]


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 4), (0, 3)])
def test_gelu(xp, rng, shape, approximate):
    check_pair("gelu", [xp.asarray(rng.standard_normal(shape) * 2)], approximate)


@pytest.mark.parametrize("approximate", FORMS)
def test_far_from_zero_it_is_zero_or_the_identity(xp, approximate):
    x = xp.asarray([-1000.0, -30.0, 0.0, 30.0, 1000.0])
    y, slope = fused.gelu_forward(x, approximate)
    assert_close(y, np.array([0.0, 0, 0, 30, 1000]))
    assert_close(fused.gelu_backward(xp.ones(5), slope)[0], np.array([0.0, 0, 0.5, 1, 1]))


def test_the_two_forms_lie_close_together_and_are_not_the_same(xp):
    x = xp.linspace(-5, 5, 101)
    gap = to_numpy(abs(fused.gelu_forward(x, "none")[0] - fused.gelu_forward(x, "tanh")[0])).max()
    assert 1e-5 < gap < 1e-3


@pytest.mark.parametrize("approximate", FORMS)
def test_without_a_gradient_to_come_nothing_is_kept(xp, approximate):
    assert fused.gelu_forward(xp.ones((2, 3)), approximate, needs=(False,))[1] is None


@pytest.mark.parametrize("approximate", FORMS)
def test_inputs_that_are_not_contiguous(xp, rng, approximate):
    check_pair("gelu", [xp.asarray(rng.standard_normal((3, 8))).T[::2]], approximate)


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_is_kept(xp, rng, approximate, dtype):
    x = rng.standard_normal(100).astype(dtype)
    y, slope = fused.gelu_forward(xp.asarray(x), approximate)
    assert y.dtype == slope.dtype == dtype
    exact, _ = by_reference("gelu", [x], approximate)
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


@pytest.mark.parametrize("shape", [(), (5,), (2, 1, 4), (0, 3)])
def test_silu(xp, rng, shape):
    check_pair("silu", [xp.asarray(rng.standard_normal(shape) * 2)])


@pytest.mark.parametrize("shape", [(), (5,), (2, 1, 4), (0, 3)])
def test_swiglu(xp, rng, shape):
    check_pair("swiglu", [xp.asarray(x) for x in rng.standard_normal((2, *shape))])


@pytest.mark.parametrize(("needs", "kept"), [((False, False), 0), ((True, False), 1), ((False, True), 1)])
def test_what_swiglu_keeps(xp, needs, kept):
    _, saved = fused.swiglu_forward(xp.ones((2, 3)), xp.ones((2, 3)), needs)
    assert sum(a is not None for a in saved) == kept


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_from_zero_silu_does_not_overflow(xp, dtype):
    x = xp.asarray([-1e4, -200.0, 0.0, 200.0, 1e4], dtype)
    expected = np.array([0, 0, 0, 200, 1e4])
    y, slope = fused.silu_forward(x)
    assert_close(y, expected, atol=1e-30)
    assert_close(slope, np.array([0, 0, 0.5, 1, 1]), atol=1e-30)
    y, saved = fused.swiglu_forward(x, xp.ones_like(x))
    assert_close(y, expected, atol=1e-30)
    assert_close(saved[0], np.array([0, 0, 0.5, 1, 1]), atol=1e-30)


def test_relu(xp):
    x = xp.asarray([-2.0, -0.5, 0.5, 3.0])
    assert_close(fused.relu_forward(x)[0], np.array([0, 0, 0.5, 3.0]))
    check_pair("relu", [x])


@pytest.mark.parametrize("name", ["silu", "relu"])
def test_without_a_gradient_to_come_silu_and_relu_keep_nothing(xp, name):
    assert getattr(fused, f"{name}_forward")(xp.ones((2, 3)), needs=(False,))[1] is None


def test_gate_and_up_of_two_shapes_are_named(xp):
    with pytest.raises(ValueError, match=r"swiglu: gate \(2, 3\) and up \(3,\) must have one shape"):
        F.swiglu(xp.ones((2, 3)), xp.ones(3))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["silu", "relu", "swiglu"])
def test_the_others_like_torch(xp, rng, dtype, name):
    import torch

    functional = torch.nn.functional
    theirs = getattr(functional, name, None) or (lambda gate, up: functional.silu(gate) * up)
    arrays = list(rng.standard_normal((2 if name == "swiglu" else 1, 3, 7, 48)) * 3)
    compare_with_torch(getattr(F, name), theirs, arrays, xp, dtype)
