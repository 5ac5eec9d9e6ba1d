"""Numbers in 16 bits on a CPU: the results are those of the same numbers in float32, rounded once."""

import numpy as np
import pytest

from lora_np import Tensor, nn
from lora_np.autograd import dispatch, float_types, fused
from lora_np.autograd import functional as F
from lora_np.autograd.fused import stored

pytest.importorskip("ml_dtypes")
BFLOAT16 = nn.float_type("bfloat16")
NARROW = [BFLOAT16, np.float16]


def narrow(rng, *shape, dtype=BFLOAT16):
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def test_every_bfloat16_is_the_float32_that_it_was():
    every = np.arange(2**16, dtype=np.uint16).view(BFLOAT16)
    np.testing.assert_array_equal(float_types.widened(every).view(np.uint32) >> 16, np.arange(2**16))
    for x in (np.float32([1, 2]), None, 3.0):
        assert float_types.widened(x) is x


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", NARROW)
def test_linear_layers_in_blocks(rng, monkeypatch, flipped, block, bias, dtype):
    monkeypatch.setattr(stored, "BLOCK", block)
    x = rng.standard_normal((2, 3, 5)).astype(np.float32)
    w = narrow(rng, *((5, 7) if flipped else (7, 5)), dtype=dtype)
    b = narrow(rng, 7, dtype=dtype) if bias else None
    A, B = (rng.standard_normal(s).astype(np.float32) for s in ((2, 5), (7, 2)))
    wide = [None if a is None else a.astype(np.float32) for a in (w, b)]
    dy = rng.standard_normal((2, 3, 7)).astype(np.float32)
    mask = rng.integers(0, 2, x.shape).astype(np.float32)
    for name, more, needs in (
        ("linear", (flipped,), (True, False, False)),
        ("lora_linear", (A, B, 1.5, flipped, None), (True, False, False, True, True)),
        ("lora_linear", (A, B, 1.5, flipped, mask), (True, False, False, True, True)),
    ):
        forward, backward = dispatch.pair(name, (x, w, b))
        assert forward is stored.PAIRS[name][0]
        y, cache = forward(x, w, b, *more, needs=needs)
        expected, plain = getattr(fused, f"{name}_forward")(x, *wide, *more, needs=needs)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        for d, other in zip(backward(dy, cache), getattr(fused, f"{name}_backward")(dy, plain), strict=True):
            assert (d is None) == (other is None)
            if d is not None:
                np.testing.assert_allclose(d, other, rtol=1e-5, atol=1e-5)


def test_gradients_have_the_dtype_of_what_they_are_for(rng):
    x = Tensor(rng.standard_normal((3, 4)).astype(np.float32), requires_grad=True)
    w, b, g = (Tensor(narrow(rng, *shape), requires_grad=True) for shape in ((5, 4), (5,), (5,)))
    y = F.rms_norm(F.linear(x, w, b), g)
    assert y.dtype == np.float32
    (y * y).sum().backward()
    assert [p.grad.dtype for p in (x, w, b, g)] == [np.float32, *[BFLOAT16] * 3]
    wide = [Tensor(p.data.astype(np.float32), requires_grad=True) for p in (w, b, g)]
    again = Tensor(x.data, requires_grad=True)
    y = F.rms_norm(F.linear(again, *wide[:2]), wide[2])
    (y * y).sum().backward()
    np.testing.assert_array_equal(w.grad, wide[0].grad.astype(BFLOAT16))
    np.testing.assert_array_equal(x.grad, again.grad)


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 26])
@pytest.mark.parametrize("dtype", NARROW)
def test_the_loss_reads_the_head_in_blocks(rng, monkeypatch, block, chunk_bytes, dtype):
    monkeypatch.setattr(stored, "BLOCK", block)
    x, weight = rng.standard_normal((6, 5)).astype(np.float32), narrow(rng, 7, 5, dtype=dtype)
    targets, dloss = np.array([0, 6, -100, 2, 3, -100]), np.float32(0.7)
    forward, backward = dispatch.pair("linear_cross_entropy", (x, weight))
    for needs in ((True, False), (False, False), (True, True)):
        loss, cache = forward(x, weight, targets, needs=needs, chunk_bytes=chunk_bytes)
        expected, plain = fused.linear_cross_entropy_forward(x, weight.astype(np.float32), targets, needs=needs)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        for d, other in zip(backward(dloss, cache), fused.linear_cross_entropy_backward(dloss, plain), strict=True):
            assert (d is None) == (other is None)
            if d is not None:
                close = 1e-5 if d.dtype == np.float32 else 1e-2
                np.testing.assert_allclose(d.astype(np.float32), other, rtol=close, atol=close)


IN_FLOAT16 = {
    "linear": ([(6, 5), (7, 5), (7,)], ()),
    "lora_linear": ([(6, 5), (7, 5), (7,), (2, 5), (7, 2)], (1.5,)),
    "layer_norm": ([(6, 5), (5,), (5,)], ()),
    "rms_norm": ([(6, 5), (5,)], ()),
    "gelu": ([(6, 5)], ("tanh",)),
    "swiglu": ([(6, 5), (6, 5)], ()),
    "attention": ([(2, 2, 6, 4)] * 3, ()),
    "self_attention": ([(2, 6, 24)], (2,)),
    "linear_cross_entropy": ([(6, 5), (7, 5)], (np.arange(6),)),
    "capped_cross_entropy": ([(6, 5), (7, 5)], (np.arange(6), 2.0)),
}


@pytest.mark.parametrize("name", IN_FLOAT16)
@pytest.mark.parametrize("scale", [1, 300])  # squares of 300 are more than float16 holds
@pytest.mark.parametrize("trained", [True, False])
def test_in_float16_each_result_is_that_of_float32_rounded_once(rng, name, scale, trained):
    shapes, options = IN_FLOAT16[name]
    arrays = [narrow(rng, *shape, dtype=np.float16) for shape in shapes]
    arrays[0] *= np.float16(scale)
    needs = (True, *[trained] * (len(arrays) - 1))
    (forward, backward), wide = dispatch.pair(name, arrays), [a.astype(np.float32) for a in arrays]
    y, cache = forward(*arrays, *options, needs=needs)
    expected, plain = getattr(fused, f"{name}_forward")(*wide, *options, needs=needs)
    assert y.dtype == (np.float16 if y.ndim else np.float32)
    np.testing.assert_allclose(y, expected.astype(y.dtype), rtol=2e-3, atol=1e-6)
    dy = np.ones_like(y)
    for d, other in zip(backward(dy, cache), getattr(fused, f"{name}_backward")(dy, plain), strict=True):
        assert (d is None) == (other is None)
        if d is not None:
            assert d.dtype == np.float16
            np.testing.assert_allclose(d, other.astype(np.float16), rtol=2e-3, atol=1e-5)


def test_a_weight_in_float32_keeps_its_precision_beside_float16(rng):
    x, w = narrow(rng, 3, 4, dtype=np.float16), rng.standard_normal((5, 4)).astype(np.float32)
    y = F.linear(Tensor(x), Tensor(w))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.data, x.astype(np.float32) @ w.T, rtol=1e-6)
