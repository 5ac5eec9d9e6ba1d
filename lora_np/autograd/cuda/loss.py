"""Cross-entropy in CUDA: one block for each row of logits; derived in `fused/loss.py`."""

import cupy
import numpy as np

from ..fused.loss import chunk_rows, counted_rows, scatter_rows
from .blas import gemm
from .launch import by_elements, by_rows, long

CHUNK_BYTES = 1 << 29  # of logits at once


def cross_entropy_forward(logits, targets, ignore_index=-100, needs=(True,)):
    """The mean of -ln softmax(logits)[target] over the rows that count."""
    rows, picked, n = counted_rows(targets, _like(), ignore_index)
    z = _empty(len(picked), logits.shape[1], logits.dtype)
    z[...] = logits[rows]
    losses = cupy.empty(len(z), np.float32)
    _rows(z, picked, losses, needs[0])
    return losses.sum() / n, (z, rows, n, logits.shape) if needs[0] else None


def _scaled(x, factor):
    """x times a number on the GPU, in the dtype of x."""
    out = cupy.empty(x.shape, x.dtype)
    x, factor = cupy.ascontiguousarray(x), cupy.asarray(factor, np.float32)
    by_elements("scaled", x.size, x, factor, out, long(x.size))
    return out


def cross_entropy_backward(dloss, cache):
    """dlogits."""
    z, rows, n, shape = cache
    return (scatter_rows(_scaled(z, dloss / n), rows, shape),)


def linear_cross_entropy_forward(x, weight, targets, ignore_index=-100, needs=(True, True), chunk_bytes=CHUNK_BYTES):
    """cross_entropy(x Wᵀ, targets), at most `chunk_bytes` of logits at a time, in chunks of one size."""
    rows, picked, n = counted_rows(targets, _like(), ignore_index)
    counted, V, kind = x[rows], len(weight), weight.dtype
    weight = weight.astype(x.dtype, copy=False)
    dx = cupy.empty_like(counted) if needs[0] else None
    dw = cupy.zeros(weight.shape, np.float32) if needs[1] else None
    step = chunk_rows(len(counted), x.itemsize * V, chunk_bytes)
    z, losses = _empty(step, V, x.dtype), cupy.empty(len(counted), np.float32)
    for start in range(0, len(counted), step):
        chunk = slice(start, min(start + step, len(counted)))
        logits = z[: chunk.stop - start]
        for words in _parts(V):
            gemm(counted[chunk], weight[words].T, out=logits[:, words])
        _rows(logits, picked[chunk], losses[chunk], any(needs))
        for words in _parts(V):
            if needs[0]:
                gemm(logits[:, words], weight[words], out=dx[chunk], beta=1.0 if words.start else 0.0)
            if needs[1]:
                gemm(logits[:, words].T, counted[chunk], out=dw[words], beta=1.0)
    return losses.sum() / n, (scatter_rows(dx, rows, x.shape), dw, n, kind)


def linear_cross_entropy_backward(dloss, cache):
    """dx, dweight."""
    dx, dw, n, kind = cache
    factor = dloss / n
    dx, dw = (None if d is None else _scaled(d, factor) for d in (dx, dw))
    return dx, None if dw is None else dw.astype(kind, copy=False)


def _like():
    """An array for `counted_rows`: on this GPU, and in a type that counts exactly, as 16 bits do not."""
    return cupy.empty(0, np.float32)


def _empty(rows, V, dtype):
    """Room for logits (rows, V), each row beginning at a multiple of 16 bytes."""
    return cupy.empty((rows, -(-V // 8) * 8), dtype)[:, :V]


def _parts(V):
    """The vocabulary as slices: a multiple of 8, and what is left.

    Tensor cores want sizes that 4 divides. With GPT-2's 50,257 words in one piece the two products of the loss took
    5.1 of a step's 21.9 ms on an NVIDIA H200 in TF32, in two pieces 1.8.
    """
    whole = V - V % 8
    return [part for part in (slice(0, whole), slice(whole, V)) if part.start < part.stop]


def _rows(z, picked, losses, with_gradient):
    """Fill `losses`, one for each row; z becomes its gradient if that is wanted. A target of -1 makes both 0."""
    V = z.shape[1]
    by_rows("cross_entropy_rows", len(z), V, z, picked, losses, V, long(z.strides[0] // z.itemsize), with_gradient)
