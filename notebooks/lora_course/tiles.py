"""Attention without the matrix of scores, tile by tile (FlashAttention: Dao et al., 2022, arXiv 2205.14135).

    S = Q Kᵀ / √D,   P = softmax(S) row by row, where query t sees the keys up to t,   O = P V.

S and P have T·T numbers for each head, all other arrays T·D. A tile is what TILE queries and TILE keys have of S. Each
is computed, used and forgotten; only the numbers of one tile are there at a time. On a GPU a tile stays in the fast
memory beside the arithmetic units. In NumPy nothing is won but memory: this is to be read.
"""

import numpy as np

TILE = 64


def attention(q, k, v, tile=TILE):
    """O and, for each query, L = log Σ exp(S) over the keys that it sees.

    q, k, v (..., T, D) -> O (..., T, D), L (..., T, 1). A row's softmax needs its maximum
    m and its sum z over all keys. Both are kept as they are so far. Where a tile raises
    the maximum from m to m', what has been added up before was too large by exp(m' - m):

        z <- z exp(m - m') + Σ exp(S - m'),    O <- O exp(m - m') + exp(S - m') V.

    At the end O <- O / z.
    """
    out, log_sum = np.empty_like(q), np.empty_like(q[..., :1])
    for rows in _parts(q.shape[-2], tile):
        m, z, o = np.full_like(q[..., rows, :1], -np.inf), 0.0, 0.0
        for columns in _parts(rows.stop, tile):
            scores = _scores(q, k, rows, columns)
            higher = np.maximum(m, scores.max(axis=-1, keepdims=True))
            shrink, powers = np.exp(m - higher), np.exp(scores - higher)
            z = z * shrink + powers.sum(axis=-1, keepdims=True)
            o = o * shrink + powers @ v[..., columns, :]
            m = higher
        out[..., rows, :], log_sum[..., rows, :] = o / z, m + np.log(z)
    return out, log_sum


def attention_backward(dout, q, k, v, out, log_sum, tile=TILE):
    """dQ, dK, dV from dO. Nothing of the size of S was kept: each tile of P comes again, from P = exp(S - L).

    dV = Pᵀ dO,   dP = dO Vᵀ,   dS = P ∘ (dP - Δ),   dQ = dS K / √D,   dK = dSᵀ Q / √D.
    Δ = rowsum(dP ∘ P) is the softmax's; as O = P V it is also rowsum(dO ∘ O), which needs no tile.
    """
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    delta = (dout * out).sum(axis=-1, keepdims=True)
    scale = q.shape[-1] ** -0.5
    for rows in _parts(q.shape[-2], tile):
        for columns in _parts(rows.stop, tile):
            P = np.exp(_scores(q, k, rows, columns) - log_sum[..., rows, :])
            dP = dout[..., rows, :] @ v[..., columns, :].swapaxes(-1, -2)
            dS = P * (dP - delta[..., rows, :]) * scale
            dv[..., columns, :] += P.swapaxes(-1, -2) @ dout[..., rows, :]
            dq[..., rows, :] += dS @ k[..., columns, :]
            dk[..., columns, :] += dS.swapaxes(-1, -2) @ q[..., rows, :]
    return dq, dk, dv


def _parts(stop, tile):
    """0 to `stop` in slices of `tile`; the last may be shorter."""
    return [slice(start, min(start + tile, stop)) for start in range(0, stop, tile)]


def _scores(q, k, rows, columns):
    """One tile of S, -inf where the key comes after the query."""
    scores = q[..., rows, :] @ k[..., columns, :].swapaxes(-1, -2) * q.shape[-1] ** -0.5
    seen = np.arange(columns.start, columns.stop) <= np.arange(rows.start, rows.stop)[:, None]
    return np.where(seen, scores, -np.inf)
