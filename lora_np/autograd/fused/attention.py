"""Scaled dot-product attention, and self-attention on the packed output of one query-key-value projection.

B batch, H heads, T queries, S keys, D head size, C = H·D channels.
"""

import math

import numpy as np

from ..devices import array_module
from .blocks import blocks

STRIPE = 128  # queries: at 1024 tokens a step took 742 ms with 128, 821 with 64, 765 with 256, 970 with all in one


def attention_forward(q, k, v, causal=True, scale=None, mask=None, key_mask=None, needs=(True, True, True), out=None):
    r"""O = P V,  P = softmax(s Q Kᵀ) row by row. (Vaswani et al., 2017, eq. 1.)

    q (B, H, T, D), k and v (B, K, S, D) -> O (B, H, T, D); s is 1/√D unless given. With `causal`, query t sees keys
    up to t + S - T only: the last query sees all, and S must be at least T. `key_mask` (B, S), if given, is False for
    keys that nobody sees, such as padding. `mask` (B, H, T, S), if given, multiplies P: the dropout mask. `out` may
    name the array to write to.

    Where H = G·K, each head of k and v serves G heads of q that lie next to each other (grouped queries, Ainslie et
    al., 2023). Their T queries each are one stack of G·T queries, so nothing is repeated, and k's gradient sums over
    the group by itself. K = 1 is multi-query attention, K = H the usual one.

    P = E / z: E holds the exponentials, z the sum of each row. T·S numbers are not divided by z; the T·D of O are.
    Saved: E (at most B·H·T·S numbers), z, the mask, and of q, k, v what the gradients need.

    Gradients, with P̃ = mask∘P and dP = mask∘(dO Vᵀ):
        dV = P̃ᵀ dO,    dS = P ∘ (dP - rowsum(dP∘P)),    dQ = s dS K,    dK = s dSᵀ Q.
    The row sum is softmax's own: probabilities of a row add up to 1, so only differences in dP count.
    With dO' = dO / z in the place of dO, E stands in the place of P, and the row sum is divided by z once more.

    Causal attention of more than STRIPE queries goes in stripes: each is attention to the keys up to its last query. Of
    the scores that the causal mask would hide, most are then neither computed nor saved. k and v get the sum of the
    stripes' gradients.
    """
    xp, (T, D), S = array_module(q), q.shape[2:], k.shape[2]
    scale = 1 / math.sqrt(D) if scale is None else scale
    out = xp.empty(q.shape, q.dtype) if out is None else out
    stripes = []
    for t, s in query_stripes(T, S, causal):
        masks = (None if mask is None else mask[:, :, t, s], None if key_mask is None else key_mask[:, s])
        saved = _stripe_forward(q[:, :, t], k[:, :, s], v[:, :, s], causal, scale, *masks, needs, out[:, :, t])
        stripes.append((t, s, saved))
    return out, (stripes, scale, q.shape, k.shape, needs)


def attention_backward(dout, cache, out=(None, None, None)):
    """dq, dk, dv of `attention_forward`; `out` may name the arrays to write them to."""
    stripes, scale, q_shape, k_shape, needs = cache
    xp, shapes = array_module(dout), (q_shape, k_shape, k_shape)
    dq, dk, dv = (
        (xp.empty(shape, dout.dtype) if given is None else given) if need else None
        for shape, need, given in zip(shapes, needs, out, strict=True)
    )
    for number, (t, s, saved) in enumerate(reversed(stripes)):  # the last stripe has all keys; the others add to it
        parts = [None if d is None else d[:, :, s] for d in (dk, dv)]
        if number > 0:
            parts = [None if d is None else xp.empty(d.shape, d.dtype) for d in parts]
        _stripe_backward(dout[:, :, t], saved, scale, None if dq is None else dq[:, :, t], *parts)
        if number > 0:
            for d, part in zip((dk, dv), parts, strict=True):
                if d is not None:
                    d[:, :, s] += part
    return dq, dk, dv


def query_stripes(T, S, causal):
    """[(slice of the queries, slice of the keys up to the last of them)]; one stripe if not causal."""
    if not causal:
        return [(slice(0, T), slice(0, S))]
    starts = range(0, max(T, 1), STRIPE)
    return [(slice(t, min(t + STRIPE, T)), slice(0, S - T + min(t + STRIPE, T))) for t in starts]


def _stripe_forward(q, k, v, causal, scale, mask, key_mask, needs, out):
    """Fill `out`; returns what the gradients need: (E, z, (q, k, v), mask)."""
    xp, (B, H, T, _), (K, S) = array_module(q), q.shape, k.shape[1:3]
    stack = (K, H // K * T)
    hidden = _hidden(xp, causal, T, S, key_mask, q.dtype)
    mask = None if mask is None else mask.reshape(B, *stack, S)
    keep = any(needs)
    E = xp.empty((B, *stack, S), q.dtype) if keep else None
    z = xp.empty((B, *stack, 1), q.dtype) if keep else None
    for i in blocks(B, q.itemsize * H * T * S, xp):
        e = xp.matmul(_stacked(q[i] * scale, stack), k[i].swapaxes(-1, -2), out=E[i] if keep else None)
        _exponentials_in_place(xp, e, hidden if hidden is None or hidden.ndim == 2 else hidden[i], T)
        sums = xp.einsum("bhts->bht", e)[..., None]
        _matmul_into(xp, e if mask is None else e * mask[i], v[i], out[i])
        out[i] /= sums.reshape(*out[i].shape[:3], 1)
        if keep:
            z[i] = sums
    used = (q if needs[1] else None, k if needs[0] else None, v if needs[0] or needs[1] else None)
    return E, z, used, mask


def _stripe_backward(dout, saved, scale, dq, dk, dv):
    """Fill those of dq, dk, dv that are not None."""
    E, z, (q, k, v), mask = saved
    xp, stack = array_module(dout), E.shape[1:3]
    for i in blocks(len(E), E.itemsize * math.prod(E.shape[1:]), xp):
        e, do = E[i], _stacked(dout[i], stack) / z[i]
        if dv is not None:
            xp.matmul((e if mask is None else e * mask[i]).swapaxes(-1, -2), do, out=dv[i])
        if dq is not None or dk is not None:
            ds = xp.matmul(do, v[i].swapaxes(-1, -2))
            if mask is not None:
                ds *= mask[i]
            ds -= xp.einsum("bhts,bhts->bht", ds, e)[..., None] / z[i]
            ds *= e
        if dq is not None:
            _matmul_into(xp, ds, k[i], dq[i])
            dq[i] *= scale
        if dk is not None:
            xp.matmul(ds.swapaxes(-1, -2), _stacked(q[i] * scale, stack), out=dk[i])


def _stacked(x, stack):
    """x (b, H, T, D) as (b, K, G·T, D): the queries of a group in one stack; x itself where K = H."""
    return x.reshape(len(x), *stack, x.shape[-1])


def _matmul_into(xp, a, b, out):
    """out (b, H, T, D) ← a b, the product of stacks (b, K, G·T, ·)."""
    if a.shape[1] == out.shape[1]:
        xp.matmul(a, b, out=out)
    else:
        out[...] = xp.matmul(a, b).reshape(out.shape)


def self_attention_forward(qkv, heads, causal=True, scale=None, mask=None, key_mask=None, needs=(True,)):
    """Attention of a sequence to itself. qkv (B, T, 3C), queries, keys and values side by side -> (B, T, C).

    The heads are views: nothing is copied to split them, and the result is written where the heads lie side by
    side again. The gradient's three parts are written into one array in the same way.
    """
    xp = array_module(qkv)
    B, T, width = qkv.shape
    y = xp.empty((B, T, width // 3), qkv.dtype)
    q, k, v = head_views(qkv, heads, 3)
    (out,) = head_views(y, heads, 1)
    _, cache = attention_forward(q, k, v, causal, scale, mask, key_mask, needs * 3, out)
    return y, (cache, heads)


def self_attention_backward(dy, cache):
    """dqkv of `self_attention_forward`."""
    cache, heads = cache
    B, T, C = dy.shape
    dqkv = array_module(dy).empty((B, T, 3 * C), dy.dtype)
    attention_backward(head_views(dy, heads, 1)[0], cache, out=head_views(dqkv, heads, 3))
    return (dqkv,)


def head_views(x, heads, parts):
    """x (B, T, parts·C) as `parts` views (B, H, T, D), one for each of the stretches of C channels."""
    B, T, width = x.shape
    x = x.reshape(B, T, parts, heads, width // (parts * heads))
    return [x[:, :, i].swapaxes(1, 2) for i in range(parts)]


def _hidden(xp, causal, T, S, key_mask, dtype):
    """What to add to the scores of the last keys: 0 where query t may look at key s, else a number so low that e^score
    is 0. (T, T), or (B, 1, 1, T, S) where the batch's rows differ, or None where all may be seen.

    The number is finite: a query that sees nothing at all, which only padding is, gets some average instead of NaN.
    """
    seen, S = None, T if key_mask is None else S
    if causal and T > 1:
        seen = xp.arange(S) <= xp.arange(T)[:, None] + (S - T)
    if key_mask is not None:
        key_mask = key_mask[:, None, None, None, :]
        seen = key_mask if seen is None else seen & key_mask
    return None if seen is None else xp.where(seen, dtype.type(0), dtype.type(np.finfo(dtype).min / 2))


def _exponentials_in_place(xp, scores, hidden, T):
    """scores (b, K, G·T, S) -> e^(scores + hidden - m), where m is chosen so that nothing overflows, and no row ends up
    with zeros only. Softmax does not depend on m, which may differ from row to row.

    Usually m is the largest score of the row. Finding it is the slowest part of softmax for rows of a few hundred keys.
    So where all scores lie close together, which two fast passes tell, their largest serves every row. (Then a row's
    last digits depend on the rows beside it.) Close means: in float32 no exponential is below e^-44, and as many orders
    of magnitude are left for what is made of it.
    """
    m = None
    if xp is np and scores.size and (hidden is None or hidden.ndim == 2):  # no padding: each query sees some key
        largest = scores.max()
        if largest - scores.min() < math.log(np.finfo(scores.dtype).max) / 2:
            m = largest
    if hidden is not None:
        by_query = scores.reshape(*scores.shape[:2], -1, T, scores.shape[-1])
        by_query[..., scores.shape[-1] - hidden.shape[-1] :] += hidden
    scores -= scores.max(axis=-1, keepdims=True) if m is None else m
    xp.exp(scores, out=scores)
