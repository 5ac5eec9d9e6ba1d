"""What CuPy does not offer, or not as fast. Each names its NumPy counterpart."""

import functools
import math

import numpy as np

from .backend import on_gpu


def add(x, y, into_x=False):
    """x + y, for arrays of one library or Python numbers; with `into_x` written to where x is (x += y)."""
    if on_gpu(x) and on_gpu(y):
        from .cuda import elementwise

        if elementwise.fits(x, y):
            return elementwise.add(x, y, out=x if into_x else None)
    if not into_x:
        return x + y
    x += y
    return x


def matmul(x, w):
    """numpy.matmul(x, w); on a GPU in the precision that `backend.set_tf32` chose, and so that it can be recorded.

    (Not for stacks of different shapes, which are left to CuPy.)
    """
    alike = 2 <= x.ndim == w.ndim and x.shape[:-2] == w.shape[:-2] and x.dtype == w.dtype == np.float32
    if not on_gpu(x) or not alike:
        return x @ w
    from .cuda.blas import gemm

    if x.ndim <= 3:
        return gemm(x, w)
    stacks = (a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:]) for a in (x, w))
    return gemm(*stacks).reshape(*x.shape[:-1], w.shape[-1])


@functools.cache
def _sum_groups_kernel():
    import cupy

    return cupy.ElementwiseKernel(
        "raw T rows, raw int64 starts, int64 width, int64 count",
        "T total",
        """
        long long group = i / width, column = i % width;
        long long end = group + 1 < starts.size() ? starts[group + 1] : count;
        total = 0;
        for (long long row = starts[group]; row < end; ++row) total += rows[row * width + column];
        """,
        "lora_np_sum_groups",
    )


def sum_groups(rows, starts):
    """numpy.add.reduceat(rows, starts) on CuPy arrays: out[g] = the sum of rows starts[g] up to starts[g + 1].

    rows (N, C), starts (G,) increasing -> (G, C). One thread sums one column of one group in order, so that the
    result is the same every time.
    """
    import cupy

    rows = cupy.ascontiguousarray(rows)
    total = cupy.empty((len(starts), rows.shape[1]), rows.dtype)
    return _sum_groups_kernel()(rows, starts.astype(cupy.int64), rows.shape[1], len(rows), total)
