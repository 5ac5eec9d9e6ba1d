"""Attention in CUDA: products of stacks by cuBLAS, softmax in a kernel; derived in `fused/attention.py`.

In 16 bits cuDNN does it in one, where it is installed and knows how: `flash.py`.

Of causal attention's scores half are not used. Long rows are therefore worked on in stripes of queries, each with the
keys up to its last query only: with two stripes three quarters of the products, with four five eighths.
"""

import math

import cupy

from ..fused.attention import head_views
from . import flash
from .blas import gemm
from .launch import by_rows, in_packs, pack

HELD = 16  # keys for each thread of a block, which keeps them in registers; the same number stands in kernels.cu
MOST_KEYS = HELD * 1024
STRIPE = 256  # queries; shorter stripes would cost more starts of kernels than they save


def attention_forward(q, k, v, causal=True, scale=None, mask=None, key_mask=None, needs=(True, True, True)):
    """softmax(s Q Kᵀ) V: q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D). ValueError for S > MOST_KEYS."""
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    scale = 1 / math.sqrt(D) if scale is None else scale
    if mask is None and key_mask is None and (done := flash.forward(q, k, v, causal, scale, needs)):
        return done
    if S > MOST_KEYS:
        raise ValueError(f"attention on a GPU reads at most {MOST_KEYS:,} keys, got {S:,}")
    k, v = k.astype(q.dtype, copy=False), v.astype(q.dtype, copy=False)
    q, k, v = _stack(q, B * K), _stack(k, B * K), _stack(v, B * K)  # (B·K, G·T, D), (B·K, S, D) twice
    stripes = _stripes(T, S, causal and H == K)
    P = cupy.empty((B * K, H // K * T, S), q.dtype)
    for t, s in stripes:
        gemm(q[:, t], k[:, s].swapaxes(1, 2), out=P[:, t, s])
    if key_mask is not None:
        key_mask = cupy.ascontiguousarray(key_mask)
    stripe = STRIPE if len(stripes) > 1 else 0
    by_rows("softmax_forward", B * H * T, S, P, key_mask, T, S, causal, stripe, float(scale), H * T, each=HELD)
    mask = None if mask is None else cupy.ascontiguousarray(mask, dtype=P.dtype).reshape(P.shape)
    out = cupy.empty(q.shape, q.dtype)
    weights = P if mask is None else P * mask
    for t, s in stripes:
        gemm(weights[:, t, s], v[:, s], out=out[:, t])
    used = (q if needs[1] else None, k if needs[0] else None, v if needs[0] or needs[1] else None)
    return out.reshape(B, H, T, D), (P, used, mask, (causal, scale, T), (B, H, K), needs)


def attention_backward(dout, cache, out=None):
    """dq, dk, dv; `out` may be the three arrays to write them to."""
    if isinstance(cache, flash.Saved):
        return flash.backward(dout, cache, out)
    P, (q, k, v), mask, (causal, scale, T), (B, H, K), needs = cache
    D, S = dout.shape[-1], P.shape[2]
    shapes = ((B, H, T, D), (B, K, S, D), (B, K, S, D))
    out = [cupy.empty(shape, P.dtype) for shape in shapes] if out is None else out
    dq, dk, dv = (_stack(d, B * K) for d in out)
    do, stripes = _stack(dout, B * K), _stripes(T, S, causal and H == K)
    if needs[2]:
        _sum_over_queries(P if mask is None else P * mask, do, dv, stripes)
    if needs[0] or needs[1]:
        ds = cupy.empty_like(P)
        for t, s in stripes:
            gemm(do[:, t], v[:, s].swapaxes(1, 2), out=ds[:, t, s])
        stripe = STRIPE if len(stripes) > 1 else 0
        by_rows("softmax_backward", B * H * T, S, ds, P, mask, T, S, causal, stripe, float(scale), each=HELD)
    if needs[0]:
        for t, s in stripes:
            gemm(ds[:, t, s], k[:, s], out=dq[:, t])
    if needs[1]:
        _sum_over_queries(ds, q, dk, stripes)
    return tuple(d if need else None for d, need in zip(out, needs, strict=True))


def self_attention_forward(qkv, heads, causal=True, scale=None, mask=None, key_mask=None, needs=(True,)):
    """Attention of a sequence to itself: qkv (B, T, 3C) -> (B, T, C)."""
    B, T, width = qkv.shape
    if mask is None and key_mask is None and qkv.itemsize == 2:
        y = cupy.empty((B, T, width // 3), qkv.dtype)
        s = (width // (3 * heads)) ** -0.5 if scale is None else scale
        done = flash.forward(*head_views(qkv, heads, 3), causal, s, needs * 3, *head_views(y, heads, 1))
        if done:
            return y, (done[1], heads)
    q, k, v = heads_first(qkv, heads, 3)
    y, cache = attention_forward(q, k, v, causal, scale, mask, key_mask, needs * 3)
    return heads_last(cupy.ascontiguousarray(y)[None]), (cache, heads)


def self_attention_backward(dy, cache):
    """dqkv (B, T, 3C)."""
    cache, heads = cache
    if isinstance(cache, flash.Saved):
        d = cupy.empty((*dy.shape[:2], 3 * dy.shape[2]), dy.dtype)
        flash.backward(*head_views(dy, heads, 1), cache, head_views(d, heads, 3))
        return (d,)
    (dout,) = heads_first(dy, heads, 1)
    d = cupy.empty((3, *dout.shape), dy.dtype)
    attention_backward(dout, cache, out=list(d))
    return (heads_last(d),)


def heads_first(x, heads, parts):
    """x (B, T, parts·H·D) -> (parts, B, H, T, D)."""
    B, T, width = x.shape
    y = cupy.empty((parts, B, heads, T, width // (parts * heads)), x.dtype)
    _swap_heads(cupy.ascontiguousarray(x), y, y.shape, back=False)
    return y


def heads_last(x):
    """x (parts, B, H, T, D) -> (B, T, parts·H·D)."""
    parts, B, heads, T, D = x.shape
    y = cupy.empty((B, T, parts * heads * D), x.dtype)
    _swap_heads(x, y, x.shape, back=True)
    return y


def _swap_heads(x, y, shape, back):
    """Copy x to y, one of them (parts, B, H, T, D) and the other (B, T, parts·H·D)."""
    parts, B, heads, T, D = shape
    packed = in_packs(D, x, y)
    unit = pack(x.dtype) if packed else 1
    by_rows("swap_heads", B * T, parts * heads * D // unit, x, y, B, T, parts, heads, D // unit, back, packed, each=4)


def _stack(x, size):
    """x (B, H, T, D) as (size, ·, D): the queries of a group one after another."""
    return cupy.ascontiguousarray(x).reshape(size, -1, x.shape[-1])


def _stripes(T, S, triangular):
    """[(slice of queries, slice of the keys that the last of them sees)]."""
    if not triangular or T < 2 * STRIPE:
        return [(slice(0, None), slice(0, S))]
    starts = range(0, T, STRIPE)
    return [(slice(t, min(t + STRIPE, T)), slice(0, S - T + min(t + STRIPE, T))) for t in starts]


def _sum_over_queries(weights, rows, out, stripes):
    """out (·, S, D) = weightsᵀ rows: the last stripe, which has all the keys, writes, the others add to it."""
    for i, (t, s) in enumerate(reversed(stripes)):
        gemm(weights[:, t, s].swapaxes(1, 2), rows[:, t], out=out[:, s], beta=0.0 if i == 0 else 1.0)
