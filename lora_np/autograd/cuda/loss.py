"""Cross-entropy in CUDA: one block for each row of logits; derived in `fused/loss.py`."""

import cupy
import numpy as np

from ..fused.loss import counted_rows, spread
from .blas import gemm
from .launch import by_rows, long

CHUNK_BYTES = 1 << 28  # of logits at once


def cross_entropy_forward(logits, targets, ignore_index=-100, needs=(True,)):
    """The mean of -ln softmax(logits)[target] over the rows that count."""
    rows, picked = counted_rows(targets, logits, ignore_index)
    z = cupy.array(logits, order="C", copy=True) if isinstance(rows, slice) else logits[rows]
    losses = _rows(z, picked, 1 / len(z) if needs[0] else 0.0)
    return losses.sum() / len(z), (z, rows, logits.shape) if needs[0] else None


def cross_entropy_backward(dloss, cache):
    """dlogits."""
    z, rows, shape = cache
    dlogits = cupy.zeros(shape, z.dtype)
    dlogits[rows] = z * dloss
    return (dlogits,)


def linear_cross_entropy_forward(x, weight, targets, ignore_index=-100, needs=(True, True), chunk_bytes=CHUNK_BYTES):
    """cross_entropy(x Wᵀ, targets), `chunk_bytes` of logits at a time.

    The rows of the logits begin at multiples of 32 bytes, whatever the vocabulary's size: tensor cores want that.
    """
    rows, picked = counted_rows(targets, x, ignore_index)
    counted = x[rows]
    n, V = len(counted), len(weight)
    dx = cupy.empty_like(counted) if needs[0] else None
    dw = cupy.zeros_like(weight) if needs[1] else None
    step = max(1, min(n, chunk_bytes // (4 * V)))
    z = cupy.empty((step, -(-V // 8) * 8), np.float32)[:, :V]
    losses = []
    for start in range(0, n, step):
        chunk = slice(start, min(start + step, n))
        logits = gemm(counted[chunk], weight.T, out=z[: chunk.stop - start])
        losses.append(_rows(logits, picked[chunk], 1 / n if any(needs) else 0.0))
        if needs[0]:
            gemm(logits, weight, out=dx[chunk])
        if needs[1]:
            gemm(logits.T, counted[chunk], out=dw, beta=1.0)
    total = (losses[0] if len(losses) == 1 else cupy.concatenate(losses)).sum()
    return total / n, (spread(dx, rows, x.shape), dw)


def linear_cross_entropy_backward(dloss, cache):
    """dx, dweight."""
    return tuple(None if d is None else d * dloss for d in cache)


def _rows(z, picked, factor):
    """Each row's loss; z becomes its gradient times `factor`, unless that is 0."""
    losses = cupy.empty(len(z), np.float32)
    by_rows(
        "cross_entropy_rows", len(z), z.shape[1], z, picked, losses, z.shape[1], long(z.strides[0] // 4), float(factor)
    )
    return losses
