"""Attention in rows that hold several texts: the plain formula, central differences, and each text alone."""

import itertools

import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_close,
    assert_same_gradients,
    by_reference,
    check_differences,
    check_gradients,
    cotangent,
    examples,
    pair,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_np.autograd import functional as F
from lora_np.autograd import fused
from lora_np.autograd.devices import to_numpy


def some_texts(B, T, cuts):
    """((row, start, stop), ...): each row cut before these places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < T}), T]
    return tuple((row, *span) for row in range(B) for span in itertools.pairwise(places if row % 2 == 0 else [0, T]))


def text_by_text(arrays, texts, scale=None, mask=None, key_mask=None):
    """The plain formula of attention for each text alone, in float64: the result, and dout -> gradients."""
    out, parts = np.zeros(arrays[0].shape), []
    for row, start, stop in texts:
        own, along = (slice(row, row + 1), slice(None), slice(start, stop)), slice(start, stop)
        masks = (
            None if mask is None else mask[own][..., along],
            None if key_mask is None else key_mask[row : row + 1, along],
        )
        y, back = by_reference("attention", [x[own] for x in arrays], True, scale, *masks)
        out[own] = to_numpy(y)
        parts.append((own, back))

    def backward(dout):
        gradients = [np.zeros(x.shape) for x in arrays]
        for own, back in parts:
            for d, part in zip(gradients, back(dout[own]), strict=True):
                d[own] = to_numpy(part)
        return gradients

    return out, backward


@st.composite
def cases(draw):
    K, T = draw(st.integers(1, 2)), draw(st.integers(1, 7))
    return {
        "sizes": (draw(st.integers(1, 3)), K * draw(st.integers(1, 2)), K, T, 2),
        "cuts": draw(st.lists(st.integers(1, 6), max_size=3)),
        "scale": draw(st.sampled_from([None, 0.3])),
        "masked": draw(st.booleans()),
        "padded": draw(st.booleans()),
        "stripe": draw(st.sampled_from([1, 2, 128])),
        "seed": draw(st.integers(0, 99)),
    }


def drawn(case, cast):
    """(q, k, v), and (texts, scale, mask, key_mask): the first key of a text always counts."""
    (B, H, K, T, D), rng = case["sizes"], np.random.default_rng(case["seed"])
    arrays = [cast(rng.standard_normal((B, h, T, D))) for h in (H, K, K)]
    texts = some_texts(B, T, case["cuts"])
    key_mask = rng.integers(0, 2, (B, T)) == 1
    for row, start, _ in texts:
        key_mask[row, start] = True
    masks = cast(rng.integers(0, 2, (B, H, T, T)) / 0.5), key_mask
    return arrays, [texts, case["scale"], masks[0] if case["masked"] else None, masks[1] if case["padded"] else None]


@settings(examples, max_examples=60)
@given(case=cases())
def test_it_is_the_formula_with_right_gradients(xp, monkeypatch, case):
    monkeypatch.setattr(fused.attention, "STRIPE", case["stripe"])
    arrays, options = drawn(case, xp.asarray)
    options[3] = None if options[3] is None else xp.asarray(options[3])
    forward, backward = pair(fused, "text_attention")
    plain, plain_backward = text_by_text(arrays, *options)
    for needs in itertools.product((False, True), repeat=3):
        out, cache = forward(*arrays, *options, needs=needs)
        assert_close(out, plain)
        if any(needs):
            dout = cotangent(out)
            assert_same_gradients(backward(dout, cache), plain_backward(dout), needs)
    check_differences(forward, backward, arrays, *options)


@pytest.mark.parametrize("bounds", [{"window": 2}, {"softcap": 1.5}, {"window": 3, "softcap": 0.7}, {}], ids=str)
def test_each_text_has_what_it_has_alone(xp, rng, bounds):
    arrays = [xp.asarray(rng.standard_normal((2, h, 9, 4)).astype(np.float32)) for h in (4, 2, 2)]
    texts = some_texts(2, 9, [4, 5])
    found = F.attention(*arrays, texts=texts, scale=0.4, **bounds)
    for row, start, stop in texts:
        own = slice(row, row + 1), slice(None), slice(start, stop)
        alone = F.attention(*(x[own] for x in arrays), scale=0.4, **bounds)
        assert_close(found.data[own], alone.data, **TOLERANCE["float32"])


def test_gradients_on_tensors(xp, rng):
    texts = some_texts(2, 5, [2])
    arrays = [xp.asarray(rng.standard_normal((2, h, 5, 2))) for h in (2, 1, 1)]
    check_gradients(lambda q, k, v: F.attention(q, k, v, texts=texts), *arrays)
    qkv = xp.asarray(rng.standard_normal((2, 5, 12)))
    check_gradients(lambda x: F.self_attention(x, 2, texts=texts), qkv)
    q, k, v = fused.head_views(qkv, 2, 3)
    expected = F.attention(q, k, v, texts=texts).data.swapaxes(1, 2).reshape(2, 5, 4)
    assert_close(F.self_attention(qkv, 2, texts=texts), expected)


def test_what_does_not_go_together_is_refused(rng):
    q, k = rng.standard_normal((1, 1, 2, 4)), rng.standard_normal((1, 1, 3, 4))
    for options in ((q, k, k, True), (q, q, q, False)):
        with pytest.raises(ValueError, match="texts need causal=True and a key for each query"):
            F.attention(*options, texts=((0, 0, 2),))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [(2, 4, 4, 130, 64), (1, 4, 2, 65, 32), (3, 2, 1, 300, 128), (2, 2, 2, 40, 7)], ids=str
)
@pytest.mark.parametrize("joint", [False, True])  # as views of one array
@pytest.mark.parametrize("window", [None, 2, 20])
def test_in_16_bits_on_a_gpu(sizes, dtype, joint, window):
    """cuDNN's, or where it has none the blocks one after another: the pair in float64, as far as 16 bits go."""
    import cupy

    from lora_np.autograd.cuda import flash
    from lora_np.autograd.cuda import texts as by_cudnn
    from lora_np.autograd.dispatch import pair as fast
    from lora_np.nn import float_type

    (B, H, K, T, D), rng = sizes, np.random.default_rng(0)
    texts = some_texts(B, T, [1, T // 3, T // 2])
    x = rng.standard_normal((B, T, (H + 2 * K) * D)).astype(np.float32)
    x = cupy.asarray(x).astype(float_type(dtype))
    parts = [part.reshape(B, T, -1, D).swapaxes(1, 2) for part in cupy.split(x, [H * D, (H + K) * D], axis=2)]
    parts = parts if joint else [cupy.ascontiguousarray(part) for part in parts]
    forward, backward = fast("text_attention", tuple(parts))
    out, cache = forward(*parts, texts, window=window)
    assert isinstance(cache, by_cudnn.Saved) == (D % 8 == 0 and flash.library() is not None)
    slow, slow_backward = pair(fused, "text_attention")
    plain, plain_cache = slow(*(to_numpy(part.astype(np.float64)) for part in parts), texts, window=window)
    near = {"rtol": 0, "atol": 3e-2 if dtype == "bfloat16" else 4e-3}
    assert out.dtype == x.dtype
    assert_close(out.astype(np.float64), plain, **near)
    dout = cotangent(out.astype(np.float64))
    found = [d.astype(np.float64) for d in backward(dout.astype(x.dtype), cache)]
    for d, expected in zip(found, slow_backward(to_numpy(dout), plain_cache), strict=True):
        assert_close(d, expected, rtol=0, atol=near["atol"] * float(abs(expected).max()))
