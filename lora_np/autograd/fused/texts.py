"""Attention in rows that hold several texts, one behind the other: each token sees those of its own text.

That is attention with scores that are a matrix of blocks along the diagonal, of which all others are hidden. What is
hidden is not computed: each block is an attention of its own.
"""

from ..devices import array_module
from .attention import attention_backward, in_stripes


def text_attention_forward(
    q, k, v, texts, scale=None, mask=None, key_mask=None, window=None, softcap=None, needs=(True, True, True)
):
    r"""O = P V,  P = softmax(s Q Kᵀ) row by row, over the keys of the query's own text up to its own place.

    q (B, H, T, D), k and v (B, K, T, D) -> O (B, H, T, D).
    texts   ((row, start, stop), ...): text after text, which together are all tokens of all rows
    The rest as in `bounded_attention_forward`, whose window counts within a text. Of the mask (B, H, T, T) the blocks
    are used.

    A row of T tokens in texts of n tokens each takes n/T of the products that one text of T tokens would take.
    Gradients: a text's dQ, dK and dV come from its own dO alone.
    """
    out, saved = array_module(q).empty(q.shape, q.dtype), []
    for row, start, stop in texts:
        own = slice(row, row + 1), slice(None), slice(start, stop)
        masks = (
            None if mask is None else mask[own][..., start:stop],
            None if key_mask is None else key_mask[row : row + 1, start:stop],
        )
        _, cache = in_stripes(q[own], k[own], v[own], True, scale, *masks, needs, out[own], window, softcap)
        saved.append((own, cache))
    return out, (saved, k.shape, needs)


def text_attention_backward(dout, cache):
    """dq, dk, dv of `text_attention_forward`."""
    saved, k_shape, needs = cache
    empty = array_module(dout).empty
    shapes = zip((dout.shape, k_shape, k_shape), needs, strict=True)
    gradients = tuple(empty(shape, dout.dtype) if need else None for shape, need in shapes)
    for own, of_text in saved:
        attention_backward(dout[own], of_text, [None if d is None else d[own] for d in gradients])
    return gradients
