"""Weights in bfloat16 on a CPU: the results are those of the same weights in float32."""

import numpy as np
import pytest

from lora_np import Tensor, nn
from lora_np.autograd import dispatch, float_types, fused
from lora_np.autograd import functional as F
from lora_np.autograd.fused import stored

pytest.importorskip("ml_dtypes")
BFLOAT16 = nn.float_type("bfloat16")


def narrow(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32).astype(BFLOAT16)


def test_every_bfloat16_is_the_float32_that_it_was():
    every = np.arange(2**16, dtype=np.uint16).view(BFLOAT16)
    np.testing.assert_array_equal(float_types.widened(every).view(np.uint32) >> 16, np.arange(2**16))
    for x in (np.float32([1, 2]), None, 3.0):
        assert float_types.widened(x) is x


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_in_blocks(rng, monkeypatch, flipped, block, bias):
    monkeypatch.setattr(stored, "BLOCK", block)
    x = rng.standard_normal((2, 3, 5)).astype(np.float32)
    w, b = narrow(rng, *((5, 7) if flipped else (7, 5))), narrow(rng, 7) if bias else None
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


def test_without_a_bfloat16_nobody_looks_for_one(monkeypatch):
    monkeypatch.setattr(float_types.seen, "bfloat16", False)
    monkeypatch.setattr(dispatch, "_beside_bfloat16", lambda *_: pytest.fail("looked"))
    assert dispatch.pair("linear", [np.ones((2, 2), np.float32)] * 2)[0] is fused.linear_forward


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 26])
def test_the_loss_reads_the_head_in_blocks(rng, monkeypatch, block, chunk_bytes):
    monkeypatch.setattr(stored, "BLOCK", block)
    x, weight = rng.standard_normal((6, 5)).astype(np.float32), narrow(rng, 7, 5)
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
