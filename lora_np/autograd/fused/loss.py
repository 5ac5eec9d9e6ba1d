"""Cross-entropy: on logits, and on hidden states without ever holding all the logits.

The plain formulas are in `reference.py`. Here rows that do not count are left out before anything is computed.
"""

import numpy as np

from ..devices import array_module, beside, host_can_read, on_gpu, to_numpy
from .products import product
from .softcap import cap_in_place

CHUNK_BYTES = 1 << 26  # of logits at once. Each chunk reads the whole weight twice: a few rows are not worth that


def cross_entropy_forward(logits, targets, ignore_index=-100, needs=(True,)):
    r"""loss = the mean over rows of -ln p[target], p = softmax(logits).

    logits (N, V), targets (N,) integers -> a single value. Rows whose target is `ignore_index` do not count. Saved: p.
    dlogits = dloss (p - onehot(target)) / n in the n rows that count, 0 in the others.
    """
    rows, picked, n = counted_rows(targets, logits, ignore_index)
    p = logits.copy() if isinstance(rows, slice) else logits[rows]
    losses = softmax_and_losses(p, picked)
    cache = (p, rows, picked, n, logits.shape) if needs[0] else None
    return losses.sum() / n, cache


def cross_entropy_backward(dloss, cache):
    """dlogits of `cross_entropy_forward`."""
    p, rows, picked, n, shape = cache
    d = p.copy()
    subtract_onehot(d, picked)
    d *= dloss / n
    return (scatter_rows(d, rows, shape),)


def linear_cross_entropy_forward(x, weight, targets, ignore_index=-100, needs=(True, True), chunk_bytes=CHUNK_BYTES):
    r"""loss = cross_entropy(x Wᵀ, targets) a few rows at a time: a language model's head and its loss in one.

    x (N, C), weight (V, C), targets (N,) -> a single value. With GPT-2's V = 50,257 the logits of 512 rows take 103 MB,
    and their gradient as much again. Here at most `chunk_bytes` of logits exist at once. Each chunk's gradient is
    computed in its place, then used, and only dx (N, C) and dW (V, C) stay, as far as they are asked for.

    For a chunk with logits z = x Wᵀ:  dz = softmax(z) - onehot,  dx = dz W,  dW += dzᵀ x.
    Saved: these dx and dW, of the sum of the losses; the backward multiplies them by dloss / n.
    """
    return in_chunks(x, weight, targets, ignore_index, needs, chunk_bytes)


def in_chunks(x, weight, targets, ignore_index, needs, chunk_bytes, softcap=None):
    """`linear_cross_entropy_forward`, and `bounded.capped_cross_entropy_forward`, which caps the logits first."""
    xp = array_module(x)
    rows, picked, n = counted_rows(targets, x, ignore_index)
    counted, V = x[rows], len(weight)
    dx = xp.empty_like(counted) if needs[0] else None
    dw = xp.zeros_like(weight) if needs[1] else None
    step = chunk_rows(len(counted), V * x.itemsize, chunk_bytes)
    z = xp.empty((step, V), x.dtype)
    total = 0.0
    for start in range(0, len(counted), step):
        chunk = slice(start, min(start + step, len(counted)))
        logits = product(counted[chunk], weight.T, out=z[: chunk.stop - start])
        slopes = None if softcap is None else cap_in_place(logits, softcap, xp.empty_like(logits))
        total = total + softmax_and_losses(logits, picked[chunk]).sum()
        subtract_onehot(logits, picked[chunk])
        if slopes is not None:
            logits *= slopes
        if needs[0]:
            product(logits, weight, out=dx[chunk])
        if needs[1]:
            dw += product(logits.T, counted[chunk])
    return total / n, (scatter_rows(dx, rows, x.shape), dw, n)


def linear_cross_entropy_backward(dloss, cache):
    """dx, dweight of `linear_cross_entropy_forward`."""
    dx, dw, n = cache
    factor = dloss / n
    return tuple(None if d is None else (d * factor).astype(d.dtype, copy=False) for d in (dx, dw))


def counted_rows(targets, like, ignore_index=-100):
    """(rows, picked, n): which rows are computed, their targets beside the array `like`, how many rows count.

    Targets of NumPy choose the rows on the host: those that count, as numbers, or a slice if these are all. Targets on
    a GPU stay there, since the host would have to wait for them: all rows are computed, those that do not count have
    the target -1, and n is an array. ValueError if no row counts (not while work on a GPU is being recorded).
    """
    targets = targets if on_gpu(targets) else to_numpy(targets)
    counts = targets != ignore_index
    if host_can_read(counts) and not counts.any():
        raise ValueError(f"the loss has nothing to average: every target is {ignore_index}, the value that is ignored")
    if on_gpu(targets):
        picked = array_module(targets).where(counts, targets, -1).astype(np.int64, copy=False)
        return slice(None), picked, counts.sum().astype(np.result_type(like.dtype, np.float32))
    rows = np.flatnonzero(counts)
    picked = beside(targets[rows].astype(np.int64), like)
    if len(rows) == len(targets):
        return slice(None), picked, len(rows)
    return beside(rows, like), picked, len(rows)


def softmax_and_losses(z, picked):
    """Turn the logits z into probabilities in place; each row's loss, ln Σ e^z - z[target], or 0 without a target.

    Losses of logits in float16 are in float32: the sum of those of a batch may be beyond what float16 holds.
    """
    xp = array_module(z)
    z -= z.max(axis=1, keepdims=True)
    at_target = z[xp.arange(len(z)), picked]
    xp.exp(z, out=z)
    sums = z.sum(axis=1, keepdims=True)
    z /= sums
    losses = (xp.log(sums[:, 0]) - at_target).astype(np.result_type(z.dtype, np.float32), copy=False)
    return xp.where(picked < 0, 0, losses) if on_gpu(picked) else losses


def subtract_onehot(p, picked):
    """Turn the probabilities p into the gradient of each row's loss, in place; 0 in rows without a target."""
    p[array_module(p).arange(len(p)), picked] -= 1
    if on_gpu(picked):  # on the host, rows without a target are not here
        p *= (picked >= 0)[:, None]


def scatter_rows(d, rows, shape):
    """Each row of d at its place in an array of `shape`, zeros in all other rows; None stays None."""
    if d is None or isinstance(rows, slice):
        return d
    full = array_module(d).zeros(shape, d.dtype)
    full[rows] = d
    return full


def chunk_rows(n, row_bytes, chunk_bytes):
    """How many rows to work on at once: n in as few chunks of at most `chunk_bytes` as will do, all of one size."""
    chunks = max(1, -(-n // max(1, chunk_bytes // row_bytes)))
    return -(-n // chunks)
