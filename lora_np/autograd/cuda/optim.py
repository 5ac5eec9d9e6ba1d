"""What is done to all parameters or gradients at once, in one start of a kernel, without waiting for the GPU."""

import cupy
import numpy as np

from .launch import by_elements, by_rows
from .record import upload


def adamw(parameters, grads, means, squares, numbers):
    """One step of AdamW on float32 arrays, in place; the formula is in `training/optim/adamw.py`.

    numbers() -> [lr, β₁, β₂, eps, weight decay, 1 / (1 - β₁ᵗ), 1 / (1 - β₂ᵗ)] of this step, and when the step is
    replayed, of the next ones.
    """
    table = _table(parameters, grads, means, squares, [p.size for p in parameters])

    def as_array():
        return np.array(numbers(), np.float32)

    settings = upload(as_array(), refresh=as_array)
    by_elements("adamw", max(p.size for p in parameters), table, settings, rows=len(parameters))


def clip(grads, max_norm):
    """Scale float32 gradients in place to a joint norm of at most `max_norm`; the norm before, still on the GPU."""
    table = _table(grads, [g.size for g in grads])
    squares = cupy.empty(len(grads), np.float32)
    by_rows("sum_squares", len(grads), 4096, table, squares)
    norm = cupy.sqrt(squares.sum())
    factor = cupy.minimum(1.0, max_norm / (norm + 1e-6)).astype(np.float32)
    by_elements("scale_all", max(g.size for g in grads), table, factor, rows=len(grads))
    return norm


def add_shares(sums, arrays, places, share):
    """sums[place : place + size] += share · array, for each float32 array and its place; share is an array (1,)."""
    table = _table(arrays, places, [a.size for a in arrays])
    by_elements("add_shares", max(a.size for a in arrays), sums, table, share, rows=len(arrays))


def _table(*columns):
    """One row for each parameter: addresses of arrays, and numbers, as 64-bit integers on the GPU."""
    rows = [[x if isinstance(x, int) else x.data.ptr for x in row] for row in zip(*columns, strict=True)]
    return upload(np.array(rows, np.int64))
