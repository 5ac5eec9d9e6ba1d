"""Cross-entropy: on logits, and on hidden states without ever holding all the logits.

The plain formulas are in `reference.py`. Here rows that do not count are left out before anything is computed.
"""

from typing import NamedTuple

import numpy as np

from ..backend import array_module, device_of, to_device, to_numpy

CHUNK_BYTES = 1 << 26  # of logits at once. Each chunk reads the whole weight twice: a few rows are not worth that


def cross_entropy_forward(logits, targets, ignore_index=-100, needs=(True,)):
    r"""loss = the mean over rows of -ln p[target], p = softmax(logits).

    logits (N, V), targets (N,) integers -> a single value. Rows whose target is `ignore_index` do not count. Saved: p.
    dlogits = dloss (p - onehot(target)) / n in the n rows that count, 0 in the others.
    """
    xp = array_module(logits)
    rows, picked = counted_rows(targets, logits, ignore_index)
    p = logits.copy() if isinstance(rows, slice) else logits[rows]
    losses = _softmax_and_losses(xp, p, picked)
    cache = (p, rows, picked, logits.shape) if needs[0] else None
    return losses.sum() / len(p), cache


def cross_entropy_backward(dloss, cache):
    """dlogits of `cross_entropy_forward`."""
    p, rows, picked, shape = cache
    xp = array_module(p)
    dlogits = xp.zeros(shape, p.dtype)
    d = p.copy()
    d[xp.arange(len(p)), picked] -= 1
    d *= dloss / len(p)
    dlogits[rows] = d
    return (dlogits,)


def linear_cross_entropy_forward(x, weight, targets, ignore_index=-100, needs=(True, True), chunk_bytes=CHUNK_BYTES):
    r"""loss = cross_entropy(x Wᵀ, targets) a few rows at a time: a language model's head and its loss in one.

    x (N, C), weight (V, C), targets (N,) -> a single value. With GPT-2's V = 50,257 the logits of 512 rows take 103 MB,
    and their gradient as much again. Here at most `chunk_bytes` of logits exist at once. Each chunk's gradient is
    computed in its place, then used, and only dx (N, C) and dW (V, C) stay, as far as they are asked for.

    For a chunk with logits z = x Wᵀ:  dz = (softmax(z) - onehot) / n,  dx = dz W,  dW += dzᵀ x.
    Saved: dx and dW for dloss = 1; the backward multiplies them by dloss.
    """
    xp = array_module(x)
    rows, picked = counted_rows(targets, x, ignore_index)
    counted = x[rows]
    n, V = len(counted), len(weight)
    dx = xp.empty_like(counted) if needs[0] else None
    dw = xp.zeros_like(weight) if needs[1] else None
    step = chunk_rows(n, V * x.itemsize, chunk_bytes)
    z = xp.empty((step, V), x.dtype)
    total = 0.0
    for start in range(0, n, step):
        chunk = slice(start, min(start + step, n))
        logits = xp.matmul(counted[chunk], weight.T, out=z[: chunk.stop - start])
        total = total + _softmax_and_losses(xp, logits, picked[chunk]).sum()
        logits[xp.arange(len(logits)), picked[chunk]] -= 1
        if needs[0]:
            xp.matmul(logits, weight, out=dx[chunk])
        if needs[1]:
            dw += logits.T @ counted[chunk]
    for d in (dx, dw):
        if d is not None:
            d *= 1 / n
    return total / n, (scatter_rows(dx, rows, x.shape), dw)


def chunk_rows(n, row_bytes, chunk_bytes):
    """How many rows to work on at once: n rows in as few chunks of at most `chunk_bytes` as can be, nearly alike."""
    chunks = max(1, -(-n // max(1, chunk_bytes // row_bytes)))
    return -(-n // chunks)


def linear_cross_entropy_backward(dloss, cache):
    """dx, dweight of `linear_cross_entropy_forward`."""
    return tuple(None if d is None else d * dloss for d in cache)


class CountedRows(NamedTuple):
    """The rows that count, numbers or a slice, and their targets."""

    rows: object
    picked: object


def counted_rows(targets, like, ignore_index=-100):
    """The `CountedRows` of the targets, where the array `like` lives; targets that are these already stay."""
    if isinstance(targets, CountedRows):
        return targets
    targets = to_numpy(targets)
    rows = np.flatnonzero(targets != ignore_index)
    if len(rows) == 0:
        raise ValueError(f"the loss has nothing to average: every target is {ignore_index}, the value that is ignored")
    picked = to_device(targets[rows].astype(np.int64), device_of(like))
    return CountedRows(slice(None) if len(rows) == len(targets) else to_device(rows, device_of(like)), picked)


def _softmax_and_losses(xp, z, picked):
    """Turn the logits z into probabilities in place; return each row's loss, ln Σ e^z - z[target]."""
    z -= z.max(axis=1, keepdims=True)
    at_target = z[xp.arange(len(z)), picked]
    xp.exp(z, out=z)
    sums = z.sum(axis=1, keepdims=True)
    z /= sums
    return xp.log(sums[:, 0]) - at_target


def scatter_rows(d, rows, shape):
    """Each row of d at its place in an array of `shape`, zeros in all other rows; None stays None."""
    if d is None or isinstance(rows, slice):
        return d
    full = array_module(d).zeros(shape, d.dtype)
    full[rows] = d
    return full
