"""Scaled dot-product attention, and self-attention on the packed output of one query-key-value projection.

B batch, H heads, T queries, S keys, D head size, C = H·D channels.
"""

import math

import numpy as np

from ..backend import array_module, blocks


def attention_forward(q, k, v, causal=True, scale=None, mask=None, needs=(True, True, True), out=None):
    r"""O = P V,  P = softmax(s Q Kᵀ) row by row. (Vaswani et al., 2017, eq. 1.)

    q (B, H, T, D), k and v (B, H, S, D) -> O (B, H, T, D); s is 1/√D unless given. With `causal`, query t sees keys
    up to t + S - T only: the last query sees all. `mask` (B, H, T, S), if given, multiplies P: the dropout mask.
    `out` may name the array to write to. Saved: P (B, H, T, S), and of q, k, v what the gradients need.

    Gradients, with P̃ = mask∘P and dP = mask∘(dO Vᵀ):
        dV = P̃ᵀ dO,    dS = P ∘ (dP - rowsum(dP∘P)),    dQ = s dS K,    dK = s dSᵀ Q.
    The row sum is softmax's own: probabilities of a row add up to 1, so only differences in dP count.
    """
    xp = array_module(q)
    B, H, T, S = *q.shape[:3], k.shape[2]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    hidden = _future(xp, T, S, q.dtype) if causal and T > 1 else None
    out = xp.empty(q.shape, q.dtype) if out is None else out
    keep = any(needs)
    P = xp.empty((B, H, T, S), q.dtype) if keep else None
    for i in blocks(B, q.itemsize * H * T * S, xp):
        p = xp.matmul(q[i], k[i].swapaxes(-1, -2), out=P[i] if keep else None)
        _softmax_in_place(xp, p, scale, hidden)
        xp.matmul(p if mask is None else p * mask[i], v[i], out=out[i])
    used = (q if needs[1] else None, k if needs[0] else None, v if needs[0] or needs[1] else None)
    return out, (P, used, mask, scale, q.shape, k.shape, needs)


def attention_backward(dout, cache, out=(None, None, None)):
    """dq, dk, dv of `attention_forward`; `out` may name the arrays to write them to."""
    P, (q, k, v), mask, scale, q_shape, k_shape, needs = cache
    xp = array_module(dout)
    shapes = (q_shape, k_shape, k_shape)
    dq, dk, dv = (
        (xp.empty(shape, dout.dtype) if given is None else given) if need else None
        for shape, need, given in zip(shapes, needs, out, strict=True)
    )
    for i in blocks(len(P), P.itemsize * math.prod(P.shape[1:]), xp):
        p = P[i]
        if needs[2]:
            xp.matmul((p if mask is None else p * mask[i]).swapaxes(-1, -2), dout[i], out=dv[i])
        if needs[0] or needs[1]:
            ds = xp.matmul(dout[i], v[i].swapaxes(-1, -2))
            if mask is not None:
                ds *= mask[i]
            ds -= xp.einsum("bhts,bhts->bht", ds, p)[..., None]
            ds *= p
            ds *= scale
        if needs[0]:
            xp.matmul(ds, k[i], out=dq[i])
        if needs[1]:
            xp.matmul(ds.swapaxes(-1, -2), q[i], out=dk[i])
    return dq, dk, dv


def self_attention_forward(qkv, heads, causal=True, scale=None, mask=None, needs=(True,)):
    """Attention of a sequence to itself. qkv (B, T, 3C), queries, keys and values side by side -> (B, T, C).

    The heads are views: nothing is copied to split them, and the result is written where the heads lie side by
    side again. The gradient's three parts are written into one array in the same way.
    """
    xp = array_module(qkv)
    B, T, width = qkv.shape
    y = xp.empty((B, T, width // 3), qkv.dtype)
    _, cache = attention_forward(
        *_head_views(qkv, heads, 3), causal, scale, mask, needs=needs * 3, out=_head_views(y, heads, 1)[0]
    )
    return y, (cache, heads)


def self_attention_backward(dy, cache):
    """dqkv of `self_attention_forward`."""
    cache, heads = cache
    B, T, C = dy.shape
    dqkv = array_module(dy).empty((B, T, 3 * C), dy.dtype)
    attention_backward(_head_views(dy, heads, 1)[0], cache, out=_head_views(dqkv, heads, 3))
    return (dqkv,)


def _head_views(x, heads, parts):
    """x (B, T, parts·C) as `parts` views (B, H, T, D), one for each of the stretches of C channels."""
    B, T, width = x.shape
    x = x.reshape(B, T, parts, heads, width // (parts * heads))
    return [x[:, :, i].swapaxes(1, 2) for i in range(parts)]


def _future(xp, T, S, dtype):
    """(T, S): 0 where query t may look at key s, -inf where s lies in its future."""
    t, s = xp.arange(T)[:, None], xp.arange(S)[None, :]
    return xp.where(s > t + (S - T), dtype.type(-np.inf), dtype.type(0))


def _softmax_in_place(xp, scores, scale, hidden):
    """scores -> softmax(scale · scores + hidden) over the last axis. The largest score is subtracted first, so that
    no exponential overflows; the result does not change."""
    scores *= scale
    if hidden is not None:
        scores += hidden
    scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
