"""Scaled dot-product attention, and self-attention on the packed output of one query-key-value projection.

B batch, H heads of queries, K heads of keys and values, T queries, S keys, D head size, C = H·D channels.

The plain formulas are in `reference.py`. Three things make the code here longer. Each saves time or memory on the
scores, B·H·T·S numbers, which are among the largest arrays of a transformer:
- Causal attention is cut into stripes of queries, so that most of the hidden scores are never computed.
- Inside a stripe, as many sequences are worked on at once as fit the processor's cache.
- The scores are not divided to make probabilities. The result, which is smaller, is divided instead.
"""

import math

import numpy as np

from ..devices import array_module
from .blocks import blocks
from .products import dots, product
from .softcap import cap_in_place

STRIPE = 128  # queries: at 1024 tokens a step took 742 ms with 128, 821 with 64, 765 with 256, 970 with all in one


def attention_forward(q, k, v, causal=True, scale=None, mask=None, key_mask=None, needs=(True, True, True), out=None):
    r"""O = P V,  P = softmax(s Q Kᵀ) row by row. (Vaswani et al., 2017, eq. 1.)

    q (B, H, T, D), k and v (B, K, S, D) -> O (B, H, T, D).
    causal    query t sees the keys up to t + S - T. So the last query sees all keys, and S must be at least T.
    scale     s; None for 1/√D.
    mask      (B, H, T, S), or None: multiplies P. It is dropout's.
    key_mask  (B, S), or None: False for keys that nobody sees, such as padding.
    out       the array to write to, or None for a new one.

    Gradients, with P̃ = mask∘P and dP = mask∘(dO Vᵀ):
        dV = P̃ᵀ dO,    dS = P ∘ (dP - rowsum(dP∘P)),    dQ = s dS K,    dK = s dSᵀ Q.
    The row sum comes from softmax: the probabilities of a row add up to 1, so only differences in dP count.

    Grouped queries (Ainslie et al., 2023). H may be a multiple of K, H = G·K. Each head of k and v then serves G heads
    of q that lie next to each other. Their queries are stacked into one matrix of G·T rows. So k and v need not be
    repeated, and the products for dK and dV sum over the group by themselves. K = 1 is multi-query attention.

    Division. Let E be the exponentials and z the sum of each row of E. Then P = E / z, and O = (E V) / z: this divides
    T·D numbers instead of T·S. The backward has E in the place of P and dO / z in the place of dO. Only the row sum
    then needs one more division by z.
    Saved: E (at most B·H·T·S numbers), z, the mask, and those of q, k and v that the gradients need.

    Stripes. Causal attention takes STRIPE queries at a time. The last query of a stripe sees the most keys. All later
    keys are hidden from the whole stripe and are left out of its products: their scores are neither computed nor saved.
    With many stripes and S = T that is nearly half of all scores. Every stripe gives gradients for the keys and values
    that it saw; these are added up.
    """
    return in_stripes(q, k, v, causal, scale, mask, key_mask, needs, out)


def in_stripes(q, k, v, causal, scale, mask, key_mask, needs, out=None, window=None, softcap=None):
    """`attention_forward`, and `bounded.bounded_attention_forward`, which has a window and a cap besides."""
    xp, (T, D), S = array_module(q), q.shape[2:], k.shape[2]
    scale = 1 / math.sqrt(D) if scale is None else scale
    out = xp.empty(q.shape, q.dtype) if out is None else out
    stripes = []
    for t, s in query_stripes(T, S, causal, window):
        masks = (None if mask is None else mask[:, :, t, s], None if key_mask is None else key_mask[:, s])
        bounds = (causal, scale, *masks, window, softcap)
        saved = _stripe_forward(q[:, :, t], k[:, :, s], v[:, :, s], *bounds, needs, out[:, :, t])
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
    # The last stripe sees all keys, unless there is a window: it goes first and fills dk and dv. The others add to it.
    filled = stripes[-1][1].start > 0
    for d in (dk, dv) if filled else ():
        if d is not None:
            d[...] = 0
    for number, (t, s, saved) in enumerate(reversed(stripes)):
        parts = [None if d is None else d[:, :, s] for d in (dk, dv)]
        if adds := filled or number > 0:
            parts = [None if d is None else xp.empty(d.shape, d.dtype) for d in parts]
        _stripe_backward(dout[:, :, t], saved, scale, None if dq is None else dq[:, :, t], *parts)
        if adds:
            for d, part in zip((dk, dv), parts, strict=True):
                if d is not None:
                    d[:, :, s] += part
    return dq, dk, dv


def query_stripes(T, S, causal, window=None):
    """[(a stripe's queries, the keys that any of them sees)], both as slices; a single stripe if not causal.

    The last query sees the last of these keys, and the first the first: key 0, or that `window - 1` before its own.
    """
    if not causal:
        return [(slice(0, T), slice(0, S))]
    starts, past = range(0, max(T, 1), STRIPE), S - T
    first = [0 if window is None else max(0, past + t - window + 1) for t in starts]
    ends = [min(t + STRIPE, T) for t in starts]
    return [(slice(t, end), slice(key, past + end)) for t, end, key in zip(starts, ends, first, strict=True)]


def _stripe_forward(q, k, v, causal, scale, mask, key_mask, window, softcap, needs, out):
    """Attention of one stripe of queries: fill `out`, return what its gradients need, (E, z, (q, k, v), mask, slopes).

    E (B, K, G·T, S), z (B, K, G·T, 1), where T and S count this stripe's queries and keys. slopes: of the cap on the
    scores, of E's shape; None without a cap.
    """
    xp, (B, H, T, _), (K, S) = array_module(q), q.shape, k.shape[1:3]
    stack = (K, H // K * T)
    hidden = _hidden(xp, causal, T, S, key_mask, q.dtype, window)
    mask = None if mask is None else mask.reshape(B, *stack, S)
    keep = any(needs)
    E = xp.empty((B, *stack, S), q.dtype) if keep else None
    z = xp.empty((B, *stack, 1), q.dtype) if keep else None
    slopes = xp.empty((B, *stack, S), q.dtype) if keep and softcap is not None else None
    for i in blocks(B, q.itemsize * H * T * S, xp):
        e = product(_stacked(q[i] * scale, stack), k[i].swapaxes(-1, -2), out=E[i] if keep else None)
        if softcap is not None:
            cap_in_place(e, softcap, None if slopes is None else slopes[i])
        _exponentials_in_place(xp, e, hidden if hidden is None or hidden.ndim == 2 else hidden[i], T)
        sums = xp.einsum("bhts->bht", e)[..., None]
        _matmul_into(e if mask is None else e * mask[i], v[i], out[i])
        out[i] /= sums.reshape(*out[i].shape[:3], 1)
        if keep:
            z[i] = sums
    used = (q if needs[1] else None, k if needs[0] else None, v if needs[0] or needs[1] else None)
    return E, z, used, mask, slopes


def _stripe_backward(dout, saved, scale, dq, dk, dv):
    """The gradients of one stripe: fill those of dq, dk, dv that are not None."""
    E, z, (q, k, v), mask, slopes = saved
    xp, stack = array_module(dout), E.shape[1:3]
    for i in blocks(len(E), E.itemsize * math.prod(E.shape[1:]), xp):
        e, do = E[i], _stacked(dout[i], stack) / z[i]
        if dv is not None:
            product((e if mask is None else e * mask[i]).swapaxes(-1, -2), do, out=dv[i])
        if dq is not None or dk is not None:
            ds = product(do, v[i].swapaxes(-1, -2))
            if mask is not None:
                ds *= mask[i]
            ds -= dots(ds, e)[..., None] / z[i]
            ds *= e
            if slopes is not None:
                ds *= slopes[i]
        if dq is not None:
            _matmul_into(ds, k[i], dq[i])
            dq[i] *= scale
        if dk is not None:
            product(ds.swapaxes(-1, -2), _stacked(q[i] * scale, stack), out=dk[i])


def _stacked(x, stack):
    """x (b, H, T, D) as (b, K, G·T, D): the queries of a group in one stack; x itself where K = H."""
    return x.reshape(len(x), *stack, x.shape[-1])


def _matmul_into(a, b, out):
    """out (b, H, T, D) ← a b, the product of stacks (b, K, G·T, ·)."""
    if a.shape[1] == out.shape[1]:
        product(a, b, out=out)
    else:
        out[...] = product(a, b).reshape(out.shape)


def self_attention_forward(qkv, heads, causal=True, scale=None, mask=None, key_mask=None, needs=(True,)):
    """Attention of a sequence to itself. qkv (B, T, 3C), queries, keys and values side by side -> (B, T, C).

    Nothing is copied to split the heads or to join them. q, k and v are views of qkv, and attention writes its result
    into a view of y. In the same way the backward writes dq, dk and dv into views of one array, dqkv.
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


def _hidden(xp, causal, T, S, key_mask, dtype, window=None):
    """What to add to the scores: 0 where a query sees the key, else a number so low that e^score becomes 0.

    None if every query sees every key. (T, T) with `causal` alone: it is for the last T keys, since every query sees
    the keys before them. With a window, (T, S). With a key_mask, which differs between sequences, (B, 1, 1, T, S), or
    T = 1 if not causal.
    The low number is not -∞, because a query that sees no key would become NaN. Only padding can be such a query; it
    gets some average.
    """
    seen, S = None, T if key_mask is None and window is None else S
    own = xp.arange(T)[:, None] + (S - T)  # the key at each query's own place
    if causal and (T > 1 or window is not None):
        seen = xp.arange(S) <= own
    if window is not None:
        seen = seen & (xp.arange(S) > own - window)
    if key_mask is not None:
        key_mask = key_mask[:, None, None, None, :]
        seen = key_mask if seen is None else seen & key_mask
    return None if seen is None else xp.where(seen, dtype.type(0), dtype.type(np.finfo(dtype).min / 2))


def _exponentials_in_place(xp, scores, hidden, T):
    """scores (b, K, G·T, S) -> e^(scores + hidden - m), in place.

    Softmax is the same for any m, and m may differ from row to row. It must be large enough that nothing overflows, and
    small enough that no row becomes all zeros.

    The largest score of each row is such an m. But for rows of a few hundred keys, finding it is the slowest part of
    softmax. Two fast passes over all scores find the largest and the smallest of all. If these lie close together, the
    largest serves as m for every row. The last digits of a row then depend on the rows beside it.

    Close together means less than 44 apart in float32. Then no exponential is below e^-44, half way (in orders of
    magnitude) from 1 to the smallest numbers. The other half is left for the products that follow.
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
