"""Attention with a window and a cap, and the loss of capped logits: the formula, central differences and torch."""

import itertools
import math

import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_same_gradients,
    check_differences,
    check_gradients,
    compare_with_torch,
    cotangent,
    examples,
    pair,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_np.autograd import Tensor, fused
from lora_np.autograd import functional as F
from lora_np.autograd.devices import to_numpy


def formula(q, k, v, scale, mask=None, key_mask=None, window=None, softcap=None):
    """Query by query, each with the keys that it sees picked out."""
    q, k, v = (to_numpy(x) for x in (q, k, v))
    (B, H, T, _), S = q.shape, k.shape[2]
    k, v = (np.repeat(x, H // x.shape[1], axis=1) for x in (k, v))
    out = np.empty(q.shape)
    for b, h, t in itertools.product(range(B), range(H), range(T)):
        own = S - T + t
        seen = [s for s in range(S) if s <= own and (window is None or s > own - window)]
        seen = [s for s in seen if key_mask is None or to_numpy(key_mask)[b, s]]
        z = scale * k[b, h, seen] @ q[b, h, t]
        z = z if softcap is None else softcap * np.tanh(z / softcap)
        p = np.exp(z - z.max())
        p = p / p.sum() * (1 if mask is None else to_numpy(mask)[b, h, t, seen])
        out[b, h, t] = p @ v[b, h, seen]
    return out


@st.composite
def cases(draw):
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    T = draw(st.integers(1, 7))
    return {
        "sizes": (draw(st.integers(1, 2)), kv_heads * group, kv_heads, T, T + draw(st.integers(0, 3)), 2),
        "window": draw(st.sampled_from([None, 1, 2, 3, 5, 20])),
        "softcap": draw(st.sampled_from([None, 0.7, 3.0, 50.0])),
        "scale": draw(st.sampled_from([None, 0.3, 2.0])),
        "masked": draw(st.booleans()),
        "stripe": draw(st.sampled_from([1, 2, 3, 128])),
        "seed": draw(st.integers(0, 99)),
    }


@settings(examples, max_examples=60)
@given(case=cases())
def test_attention_is_the_formula_with_right_gradients(xp, monkeypatch, case):
    monkeypatch.setattr(fused.attention, "STRIPE", case["stripe"])
    (B, H, K, T, S, D), rng = case["sizes"], np.random.default_rng(case["seed"])
    q, k, v = (xp.asarray(rng.standard_normal((B, h, n, D))) for h, n in ((H, T), (K, S), (K, S)))
    mask = xp.asarray(rng.integers(0, 2, (B, H, T, S)) / 0.5) if case["masked"] else None
    options = (True, case["scale"], mask, None, case["window"], case["softcap"])
    forward, backward = pair(fused, "bounded_attention")
    out, cache = forward(q, k, v, *options)
    scale = 1 / math.sqrt(D) if case["scale"] is None else case["scale"]
    assert_close(out, formula(q, k, v, scale, mask, None, case["window"], case["softcap"]))
    dout = cotangent(out)
    expected = backward(dout, cache)
    for needs in itertools.product((False, True), repeat=3):
        again, cache = forward(q, k, v, *options, needs=needs)
        assert_close(again, out)
        if any(needs):
            assert_same_gradients(backward(dout, cache), expected, needs)
    check_differences(forward, backward, [q, k, v], *options)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(("T", "S"), [(6, 6), (2, 6), (1, 6)])
def test_padding_too(xp, rng, window, softcap, T, S):
    q, k, v = (xp.asarray(rng.standard_normal((2, h, n, 3))) for h, n in ((4, T), (2, S), (2, S)))
    key_mask = xp.asarray(np.arange(S) >= [[0], [3]])
    out = F.attention(q, k, v, scale=0.4, key_mask=key_mask, window=window, softcap=softcap)
    first = max(0, T - 3)  # a query on padding gets some average
    expected = formula(q[:, :, first:], k, v, 0.4, None, key_mask, window, softcap)
    assert_close(out.data[:, :, first:], expected)
    assert np.isfinite(to_numpy(out.data)).all()


def test_without_bounds_it_is_attention(xp, rng):
    q, k, v = (xp.asarray(rng.standard_normal((2, 2, 5, 3))) for _ in range(3))
    expected, _ = fused.attention_forward(q, k, v)
    for bounds in ((None, None), (5, None), (100, None)):
        assert_close(fused.bounded_attention_forward(q, k, v, True, None, None, None, *bounds)[0], expected, 0, 0)
    assert_close(F.attention(q, k, v, window=5), expected, 0, 0)


@pytest.mark.parametrize(("T", "S", "window"), [(1, 9, 3), (4, 9, 3), (9, 9, 3), (9, 9, 1)])
def test_keys_that_nobody_sees_are_not_looked_at(xp, rng, T, S, window):
    q, k, v = (xp.asarray(rng.standard_normal((1, 2, n, 3))) for n in (T, S, S))
    expected = formula(q, k, v, 1 / math.sqrt(3), window=window)
    unseen = max(0, S - T - window + 1)
    k[:, :, :unseen], v[:, :, :unseen] = np.nan, np.nan
    assert_close(F.attention(q, k, v, window=window), expected)


def test_of_a_long_text_only_the_scores_near_the_diagonal_are_kept(xp, rng):
    q = xp.asarray(rng.standard_normal((1, 1, 1024, 2)).astype(np.float32))
    kept = {}
    for window in (None, 64):
        _, cache = fused.bounded_attention_forward(q, q, q, window=window)
        kept[window] = sum(E.size for _, _, (E, *_) in cache[0])
    assert kept[64] < 1024 * (64 + 128)
    assert kept[None] > 500_000


@pytest.mark.parametrize("bounds", [{"window": 3}, {"softcap": 2.0}, {"window": 2, "softcap": 0.5}], ids=str)
def test_gradients_of_attention_on_tensors(xp, rng, bounds):
    arrays = [xp.asarray(rng.standard_normal((2, h, n, 2))) for h, n in ((2, 3), (1, 6), (1, 6))]
    check_gradients(lambda q, k, v: F.attention(q, k, v, **bounds), *arrays)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 40, 300])
def test_attention_like_torch(xp, rng, dtype, window, softcap):
    """Three stripes of queries, grouped heads."""
    import torch

    T, S = 290, 300
    own = torch.arange(T)[:, None] + S - T
    seen = (torch.arange(S) <= own) & (torch.arange(S) > own - (window or S))

    def theirs(q, k, v):
        z = q @ k.repeat_interleave(2, 1).transpose(-1, -2) / math.sqrt(8)
        z = z if softcap is None else torch.tanh(z / softcap) * softcap
        return z.masked_fill(~seen, -torch.inf).softmax(-1) @ v.repeat_interleave(2, 1)

    arrays = [rng.standard_normal((2, h, n, 8)) for h, n in ((4, T), (2, S), (2, S))]
    compare_with_torch(lambda *x: F.attention(*x, window=window, softcap=softcap), theirs, arrays, xp, dtype)


@pytest.mark.parametrize(("window", "causal"), [(0, True), (-1, True), (3, False)])
def test_a_window_that_makes_no_sense_is_refused(xp, window, causal):
    q = Tensor(xp.ones((1, 1, 4, 2)))
    with pytest.raises(ValueError, match=f"a window of {window} keys; it goes with causal=True, and is at least 1"):
        F.attention(q, q, q, causal=causal, window=window)


@settings(examples, max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(2, 6)),
    cap=st.sampled_from([0.5, 3.0, 30.0]),
    chunk=st.sampled_from([1, 100, 1 << 26]),
    seed=st.integers(0, 99),
)
def test_the_loss_is_that_of_capped_logits(xp, sizes, cap, chunk, seed):
    (N, C, V), rng = sizes, np.random.default_rng(seed)
    x, weight = xp.asarray(rng.standard_normal((N, C))), xp.asarray(rng.standard_normal((V, C)))
    targets = np.where(rng.random(N) < 0.3, -100, rng.integers(0, V, N))
    targets[0] = 0
    forward, backward = pair(fused, "capped_cross_entropy")
    loss, cache = forward(x, weight, targets, cap, chunk_bytes=chunk)
    logits = cap * np.tanh(to_numpy(x) @ to_numpy(weight).T / cap)
    counted = np.flatnonzero(targets != -100)
    losses = np.log(np.exp(logits).sum(1))[counted] - logits[counted, targets[counted]]
    assert_close(loss, losses.mean())
    expected = backward(xp.asarray(1.5), cache)
    for needs in ((True, False), (False, True), (False, False)):
        _, cache = forward(x, weight, targets, cap, needs=needs, chunk_bytes=chunk)
        if any(needs):
            assert_same_gradients(backward(xp.asarray(1.5), cache), expected, needs)
    check_differences(forward, backward, [x, weight], targets, cap, chunk_bytes=chunk)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_and_the_capped_logits_like_torch(xp, rng, dtype):
    import torch

    targets = np.where(rng.random((2, 9)) < 0.3, -100, rng.integers(0, 11, (2, 9)))

    def theirs(x, weight):
        logits = torch.tanh(x @ weight.T / 3) * 3
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())

    arrays = [rng.standard_normal((2, 9, 5)), rng.standard_normal((11, 5))]
    compare_with_torch(lambda x, w: F.linear_cross_entropy(x, w, targets, softcap=3.0), theirs, arrays, xp, dtype)
    capped = (lambda x, w: F.softcap(F.linear(x, w), 3.0), lambda x, w: torch.tanh(x @ w.T / 3) * 3)
    compare_with_torch(*capped, arrays, xp, dtype)
