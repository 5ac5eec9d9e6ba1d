"""Small operations in CUDA; the same in NumPy are in `autograd/elementary.py`."""

import functools
import math

import cupy

from .blas import gemm
from .launch import by_elements, in_packs, long, number_by_number


def add(x, y, into_x=False):
    """x + y, of which a model with residual connections makes four in each block and direction.

    CuPy's own kernel reads number by number: 4096 x 768 took it 17.6 µs on an NVIDIA H200, this one 7.2. It takes
    arrays of one shape and dtype that can be read by 16 bytes at a time; CuPy adds the others.
    """
    if not _in_one_order(x, y):
        if not into_x:
            return x + y
        x += y
        return x
    out = x if into_x else cupy.empty_like(x)
    number_by_number("add_numbers_of", x, y, out)
    return out


def _in_one_order(x, y):
    same = x.shape == y.shape and x.dtype == y.dtype
    return same and x.flags.c_contiguous and y.flags.c_contiguous and in_packs(x.size, x, y)


def matmul(x, w):
    """The matrix product in the precision that `precision.set_tf32` chose, and so that it can be recorded.

    (Not for stacks of different shapes, which are left to CuPy.)
    """
    if not (2 <= x.ndim == w.ndim and x.shape[:-2] == w.shape[:-2]):
        return x @ w
    if x.ndim <= 3:
        return gemm(x, w)
    stacks = (a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:]) for a in (x, w))
    return gemm(*stacks).reshape(*x.shape[:-1], w.shape[-1])


@functools.cache
def _sum_groups_kernel():
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
    """out[g] = the sum of rows starts[g] up to starts[g + 1], of any dtype. rows (N, C), starts (G,) -> (G, C).

    One thread sums one column of one group in order, so that the result is the same every time.
    """
    rows = cupy.ascontiguousarray(rows)
    if rows.itemsize == 2:
        return sum_groups(rows.astype(cupy.float32), starts).astype(rows.dtype)
    total = cupy.empty((len(starts), rows.shape[1]), rows.dtype)
    return _sum_groups_kernel()(rows, starts.astype(cupy.int64), rows.shape[1], len(rows), total)


def erf(x):
    """The error function, of any dtype. CuPy's."""
    from cupyx.scipy.special import erf

    return erf(x)


def keep_at(x, room, place):
    """Write x (B, K, 1, D) into room (B, K, capacity, D), at the place that the integer array `place` (1,) names."""
    x = cupy.ascontiguousarray(x)
    by_elements("keep_at", x.size, x, room, place, room.shape[2], x.shape[3], long(x.size))
