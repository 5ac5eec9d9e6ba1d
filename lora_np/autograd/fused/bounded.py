"""Attention with bounds, on distance and on scores, and the loss of logits with a bound.

Both are the operations of `attention.py` and `loss.py` with one step more. They have names of their own because the
kernels in `cuda/` know no bounds: on a GPU, CuPy runs what is here.
"""

from .attention import attention_backward, in_stripes
from .loss import CHUNK_BYTES, in_chunks, linear_cross_entropy_backward


def bounded_attention_forward(
    q, k, v, causal=True, scale=None, mask=None, key_mask=None, window=None, softcap=None, needs=(True, True, True)
):
    r"""O = (M∘P) V,  P = softmax(c tanh(s Q Kᵀ / c)) row by row; what is not said here is `attention_forward`'s.

    window    with `causal`, query t sees its own key, t + S - T, and the window - 1 before it (Beltagy et al., 2020,
              section 3.1; Jiang et al., 2023, section 2). None for all before it.
    softcap   c, or None for the scores as they are (Gemma 2).

    Gradients: with Z = s Q Kᵀ and C = c tanh(Z / c), softmax's gradient is that of C, dC = P ∘ (dP - rowsum(dP∘P)), and
        dZ = dC ∘ (1 - tanh²(Z / c)),
    which goes on to Q and K. Saved besides: these slopes, as many as the scores. A hidden key has P = 0, so dC = 0.

    A stripe of queries leaves out the keys before its first query's window, as those behind its last query. With a
    window that is short beside T, time and memory are those of T·(window + STRIPE) scores and not of T²/2.
    """
    return in_stripes(q, k, v, causal, scale, mask, key_mask, needs, None, window, softcap)


def bounded_attention_backward(dout, cache):
    """dq, dk, dv of `bounded_attention_forward`."""
    return attention_backward(dout, cache)


def capped_cross_entropy_forward(
    x, weight, targets, softcap, ignore_index=-100, needs=(True, True), chunk_bytes=CHUNK_BYTES
):
    r"""loss = cross_entropy(c tanh(x Wᵀ / c), targets) a few rows at a time, c = softcap.

    The rest as in `linear_cross_entropy_forward`, but for one factor. For a chunk with z = x Wᵀ and y = c tanh(z / c):
        dz = (softmax(y) - onehot) ∘ (1 - tanh²(z / c)),  dx = dz W,  dW += dzᵀ x.
    """
    return in_chunks(x, weight, targets, ignore_index, needs, chunk_bytes, softcap)


def capped_cross_entropy_backward(dloss, cache):
    """dx, dweight of `capped_cross_entropy_forward`."""
    return linear_cross_entropy_backward(dloss, cache)
