"""What optimizers do to all parameters at once, in one start of a kernel, without waiting for the GPU."""

import cupy
import numpy as np

from .launch import by_elements, by_rows


def adamw(parameters, grads, means, squares, step, lr, betas, eps, weight_decay):
    """One step `step` (from 1) of AdamW on float32 arrays, in place; the formula is in `training/optim.py`."""
    beta1, beta2 = betas
    table = _table(parameters, grads, means, squares, [p.size for p in parameters])
    corrections = (float(1 / (1 - beta1**step)), float(1 / (1 - beta2**step)))
    numbers = (float(lr), float(beta1), float(beta2), float(eps), float(weight_decay), *corrections)
    by_elements("adamw", max(p.size for p in parameters), table, *numbers, rows=len(parameters))


def clip(grads, max_norm):
    """Scale float32 gradients in place to a joint norm of at most `max_norm`; the norm before, still on the GPU."""
    table = _table(grads, [g.size for g in grads])
    squares = cupy.empty(len(grads), np.float32)
    by_rows("sum_squares", len(grads), 4096, table, squares)
    norm = cupy.sqrt(squares.sum())
    factor = cupy.minimum(1.0, max_norm / (norm + 1e-6)).astype(np.float32)
    by_elements("scale_all", max(g.size for g in grads), table, factor, rows=len(grads))
    return norm


def _table(*columns):
    """One row for each parameter: addresses of arrays, and numbers, as 64-bit integers on the GPU."""
    rows = [[x if isinstance(x, int) else x.data.ptr for x in row] for row in zip(*columns, strict=True)]
    return cupy.asarray(np.array(rows, np.int64))
