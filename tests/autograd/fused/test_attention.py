"""Attention and packed self-attention against the formula, central differences and torch."""

import itertools
import math

import numpy as np
import pytest
from helpers import assert_close, check_gradients, check_pair, compare_with_torch

from lora_np import manual_seed
from lora_np.autograd import Tensor, fused
from lora_np.autograd import functional as F
from lora_np.autograd.devices import to_numpy

SIZES = [(1, 1, 1, 1, 2), (2, 2, 3, 3, 2), (1, 2, 2, 5, 3), (2, 1, 1, 4, 2), (1, 1, 4, 4, 1)]  # B, H, T, S, D


def formula(q, k, v, causal, scale, mask=None):
    """Row by row, with a loop over the keys that each query may see."""
    q, k, v = map(to_numpy, (q, k, v))
    T, S = q.shape[2], k.shape[2]
    out = np.empty(q.shape)
    for t in range(T):
        seen = t + S - T + 1 if causal else S
        scores = np.exp(scale * np.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, :seen]))
        p = scores / scores.sum(axis=-1, keepdims=True)
        if mask is not None:
            p = p * to_numpy(mask)[:, :, t, :seen]
        out[:, :, t] = np.einsum("bhs,bhsd->bhd", p, v[:, :, :seen])
    return out


def inputs(rng, xp, B, H, T, S, D):
    return [xp.asarray(rng.standard_normal((B, H, length, D))) for length in (T, S, S)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_attention(xp, rng, sizes, masked, scale, causal):
    arrays = inputs(rng, xp, *sizes)
    mask = xp.asarray(rng.integers(0, 2, sizes[:4]) / 0.5) if masked else None
    out, _ = fused.attention_forward(*arrays, causal, scale, mask)
    assert_close(out, formula(*arrays, causal, 1 / math.sqrt(sizes[4]) if scale is None else scale, mask))
    check_pair("attention", arrays, causal, scale, mask)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("heads", [1, 2])
def test_self_attention(xp, rng, heads, scale, masked, causal):
    B, T, D = 2, 3, 2
    qkv = xp.asarray(rng.standard_normal((B, T, 3 * heads * D)))
    mask = xp.asarray(rng.integers(0, 2, (B, heads, T, T)) / 0.5) if masked else None
    y, _ = fused.self_attention_forward(qkv, heads, causal, scale, mask)
    parts = qkv.reshape(B, T, 3, heads, D).transpose(2, 0, 3, 1, 4)
    expected = formula(*parts, causal, 1 / math.sqrt(D) if scale is None else scale, mask)
    assert_close(y, expected.swapaxes(1, 2).reshape(B, T, heads * D))
    if not masked:
        assert_close(F.self_attention(Tensor(qkv), heads, causal, scale), y)
    check_pair("self_attention", [qkv], heads, causal, scale, mask)


def test_the_future_has_no_influence(xp, rng):
    q, k, v = inputs(rng, xp, 1, 2, 5, 5, 3)
    before, _ = fused.attention_forward(q, k, v)
    k[:, :, 3:] *= -1.0
    v[:, :, 3:] += 10.0
    after, _ = fused.attention_forward(q, k, v)
    assert_close(after[:, :, :3], before[:, :, :3])
    assert float(abs(after - before)[:, :, 3:].min()) > 1e-3


@pytest.mark.parametrize("T", [1, 2])
def test_the_last_queries_of_a_sequence_see_what_they_would_in_the_whole(xp, rng, T):
    """What a key-value cache relies on: query t of T sees keys up to t + S - T."""
    q, k, v = inputs(rng, xp, 2, 2, 5, 5, 3)
    whole, _ = fused.attention_forward(q, k, v)
    end, _ = fused.attention_forward(q[:, :, -T:], k, v)
    assert_close(end, whole[:, :, -T:])


def test_large_scores_do_not_overflow(xp, rng):
    q, k, v = inputs(rng, xp, 1, 1, 3, 3, 2)
    y, cache = fused.attention_forward(q * 1e4, k * 1e4, v, causal=False)
    assert np.isfinite(to_numpy(y)).all()
    for d in fused.attention_backward(xp.ones_like(y), cache):
        assert np.isfinite(to_numpy(d)).all()


@pytest.mark.parametrize("far_apart", [0.1, 8, 20, 60])
@pytest.mark.parametrize("causal", [True, False])
def test_scores_close_together_and_far_apart(xp, rng, far_apart, causal):
    """Close together, all rows share what is subtracted from their scores; the rows' levels are far apart here."""
    q, k, v = inputs(rng, xp, 2, 2, 6, 6, 4)
    q = q * far_apart
    k[..., 0], q[..., 0] = 1, xp.arange(6) * far_apart  # raises all scores of a row by the same
    expected = formula(q, k, v, causal, 0.5)
    assert_close(fused.attention_forward(q, k, v, causal)[0], expected)
    in_float32, cache = fused.attention_forward(*(x.astype(np.float32) for x in (q, k, v)), causal)
    assert_close(in_float32, expected, rtol=1e-3, atol=1e-4)
    for d in fused.attention_backward(xp.ones_like(in_float32), cache):
        assert np.isfinite(to_numpy(d)).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("which", ["attention", "self_attention"])
def test_gradients_with_dropout(xp, rng, which, causal):
    """The same seed before each call gives each call the same mask."""
    packed = which == "self_attention"
    arrays = [xp.asarray(rng.standard_normal((2, 3, 12)))] if packed else inputs(rng, xp, 2, 2, 3, 4, 2)
    heads = (2,) if packed else ()

    def function(*tensors, dropout=0.3):
        manual_seed(4)
        return getattr(F, which)(*tensors, *heads, causal=causal, dropout=dropout)

    check_gradients(function, *arrays)
    dropped, plain = (function(*map(Tensor, arrays), dropout=p) for p in (0.3, 0.0))
    assert float(abs(dropped.data - plain.data).max()) > 1e-3


def test_no_queries(xp):
    q, k = xp.zeros((2, 4, 0, 3)), xp.ones((2, 2, 5, 3))
    y, cache = fused.attention_forward(q, k, k)
    assert y.shape == (2, 4, 0, 3)
    dq, dk, dv = fused.attention_backward(y, cache)
    assert dq.shape == q.shape
    assert not to_numpy(dk).any()
    assert not to_numpy(dv).any()


@pytest.mark.parametrize("which", ["attention", "self_attention"])
def test_an_empty_batch(xp, which):
    if which == "attention":
        check_gradients(F.attention, *(xp.ones((0, 2, 3, 4)) for _ in range(3)))
    else:
        check_gradients(lambda qkv: F.self_attention(qkv, 2), xp.ones((0, 3, 12)))


@pytest.mark.parametrize("stripe", [1, 2, 3, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize(("T", "S"), [(5, 5), (4, 6)])
def test_stripes_of_queries_are_the_whole(xp, rng, monkeypatch, stripe, masked, heads, kv_heads, T, S):
    q, k, v = (xp.asarray(rng.standard_normal((2, h, n, 3))) for h, n in ((heads, T), (kv_heads, S), (kv_heads, S)))
    mask = xp.asarray(rng.integers(0, 2, (2, heads, T, S)) / 0.5) if masked else None
    key_mask = xp.asarray(np.arange(S) > [[0], [1]]) if masked else None
    whole, cache = fused.attention_forward(q, k, v, True, None, mask, key_mask)
    first = 2 if masked else 0  # a query before the first key that counts gets some average
    dy = xp.asarray(rng.standard_normal(whole.shape))
    dy[:, :, :first] = 0
    expected = fused.attention_backward(dy, cache)
    monkeypatch.setattr(fused.attention, "STRIPE", stripe)
    found, cache = fused.attention_forward(q, k, v, True, None, mask, key_mask)
    assert_close(found[:, :, first:], whole[:, :, first:])
    saved = sum(E.size for _, _, (E, *_) in cache[0])
    assert (saved < 2 * heads * T * S) == (stripe < T)
    for choice in itertools.product([False, True], repeat=3):
        if any(choice):
            _, cache = fused.attention_forward(q, k, v, True, None, mask, key_mask, choice)
            for d, needed, other in zip(fused.attention_backward(dy, cache), choice, expected, strict=True):
                assert (d is not None) == needed
                if needed:
                    assert_close(d, other)
    if not masked:
        check_pair("attention", [q, k, v], True)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("causal", "T", "S", "scale"), [(True, 9, 9, None), (False, 5, 9, None), (False, 9, 9, 0.3)])
def test_attention_like_torch(xp, rng, dtype, causal, T, S, scale):
    import torch

    def theirs(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)

    arrays = [rng.standard_normal((2, 3, length, 16)) for length in (T, S, S)]
    compare_with_torch(lambda *inputs: F.attention(*inputs, causal, scale), theirs, arrays, xp, dtype)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_self_attention_like_torch(xp, rng, dtype):
    import torch

    def theirs(qkv):
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2)

    arrays = [rng.standard_normal((2, 9, 96))]
    compare_with_torch(lambda qkv: F.self_attention(qkv, 4), theirs, arrays, xp, dtype)


GROUPS = [(2, 1), (4, 2), (6, 2), (6, 3)]  # heads of queries, heads of keys and values


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
def test_grouped_queries_are_repeated_keys_and_values(xp, rng, heads, kv_heads, masked, causal):
    B, T, S, D = 2, 3, 4, 2
    q = xp.asarray(rng.standard_normal((B, heads, T, D)))
    k, v = (xp.asarray(rng.standard_normal((B, kv_heads, S, D))) for _ in range(2))
    mask = xp.asarray(rng.integers(0, 2, (B, heads, T, S)) / 0.5) if masked else None
    out, _ = fused.attention_forward(q, k, v, causal, None, mask)
    repeated = [np.repeat(to_numpy(a), heads // kv_heads, axis=1) for a in (k, v)]
    assert_close(out, formula(q, *repeated, causal, 1 / math.sqrt(D), mask))
    check_pair("attention", [q, k, v], causal, None, mask)


def test_grouped_queries_that_are_not_contiguous(xp, rng):
    """As in a model: heads were split off by views, and the gradient comes in another order of axes."""
    q = xp.asarray(rng.standard_normal((2, 3, 4, 2))).swapaxes(1, 2)  # (B, T, H, D) -> (B, H, T, D)
    k, v = (xp.asarray(rng.standard_normal((2, 3, 2, 2))).swapaxes(1, 2) for _ in range(2))
    check_pair("attention", [q, k, v])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_hidden_keys_are_as_good_as_absent(xp, rng, heads, kv_heads, causal):
    B, T, D = 2, 4, 3
    q = xp.asarray(rng.standard_normal((B, heads, T, D)))
    k, v = (xp.asarray(rng.standard_normal((B, kv_heads, T, D))) for _ in range(2))
    key_mask = np.array([[False, False, True, True], [True, True, True, True]])
    out, _ = fused.attention_forward(q, k, v, causal, key_mask=xp.asarray(key_mask))
    alone, _ = fused.attention_forward(q[:1, :, 2:], k[:1, :, 2:], v[:1, :, 2:], causal)
    assert_close(out[:1, :, 2:], alone)
    assert_close(out[1:], fused.attention_forward(q[1:], k[1:], v[1:], causal)[0])
    key_mask[0] = [True, False, True, True]  # so that no query sees nothing: its result would be arbitrary
    check_pair("attention", [q, k, v], causal, None, None, xp.asarray(key_mask))


def test_a_query_that_sees_nothing_is_not_nan(xp, rng):
    qkv = xp.asarray(rng.standard_normal((1, 3, 6)).astype(np.float32))
    y, cache = fused.self_attention_forward(qkv, 1, key_mask=xp.asarray([[False, False, True]]))
    (d,) = fused.self_attention_backward(xp.ones_like(y), cache)
    assert np.isfinite(to_numpy(y)).all()
    assert np.isfinite(to_numpy(d)).all()


@pytest.mark.parametrize("mask", [np.ones((2, 3), int), np.ones((2, 2), bool), np.ones(3, bool)])
def test_a_key_mask_of_another_kind_is_refused(xp, mask):
    q = Tensor(xp.ones((2, 1, 3, 2)))
    with pytest.raises(ValueError, match=r"key_mask must be a boolean array \(2, 3\)"):
        F.attention(q, q, q, key_mask=xp.asarray(mask))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("causal", [True, False])
def test_grouped_queries_like_torch(xp, rng, dtype, causal):
    import torch

    arrays = [rng.standard_normal((2, heads, 33, 8)) for heads in (6, 2, 2)]
    compare_with_torch(
        lambda q, k, v: F.attention(q, k, v, causal=causal),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
        arrays,
        xp,
        dtype,
    )
