"""Matrix products by cuBLAS, with transposes as flags and not as copies.

`cupy.matmul` copies stacks of matrices that are not laid out one after another, and can not add to what is there.
"""

import functools

import cupy
import numpy as np
from cupy.cuda import device as cupy_device
from cupy_backends.cuda.libs import cublas

from .. import backend

NO, YES = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
FLOAT32, ANY_ALGORITHM = 0, -1  # CUDA_R_32F, CUBLAS_GEMM_DEFAULT
COMPUTE_FLOAT32, COMPUTE_TF32 = 68, 77  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32


def gemm(a, b, out=None, alpha=1.0, beta=0.0):
    """alpha · a b + beta · out, for float32 matrices a (m, k), b (k, n), or stacks of them (s, m, k), (s, k, n).

    `out` (m, n) or (s, m, n) is made if it is not given; it may be a part of a larger array, with adjacent columns.
    Matrices may be transposed views. In TF32 if `backend.set_tf32(True)` was called.
    """
    (m, k), n = a.shape[-2:], b.shape[-1]
    out = cupy.empty((*a.shape[:-1], n), np.float32) if out is None else out
    if out.size == 0:
        return out
    if k == 0:
        out *= beta
        return out
    (a, flag_a, step_a), (b, flag_b, step_b) = _layout(a), _layout(b)
    step_out = out.strides[-2] // 4
    mode = COMPUTE_TF32 if backend.tf32_enabled() else COMPUTE_FLOAT32
    # cuBLAS counts columns first. Read that way our arrays are transposed, and outᵀ = bᵀ aᵀ.
    sizes = (n, m, k, _number(alpha), b.data.ptr, FLOAT32, step_b)
    handle, end = cupy_device.get_cublas_handle(), (mode, ANY_ALGORITHM)
    if a.ndim == 2:
        rest = (a.data.ptr, FLOAT32, step_a, _number(beta), out.data.ptr, FLOAT32, step_out)
        cublas.gemmEx(handle, flag_b, flag_a, *sizes, *rest, *end)
    else:
        stack = (a.data.ptr, FLOAT32, step_a, a.strides[0] // 4, _number(beta), out.data.ptr, FLOAT32, step_out)
        cublas.gemmStridedBatchedEx(
            handle, flag_b, flag_a, *sizes, b.strides[0] // 4, *stack, out.strides[0] // 4, len(out), *end
        )
    return out


@functools.lru_cache(maxsize=256)
def _scalar(value):
    return np.array(value, np.float32)


def _number(value):
    """The address of a float32 with this value."""
    return _scalar(value).ctypes.data


def _layout(x):
    """(array, whether it is transposed, numbers from one row to the next); a copy only if neither way fits."""
    row, column = x.strides[-2:]
    if column == 4 and row >= 4 * x.shape[-1]:
        return x, NO, row // 4
    if row == 4 and column >= 4 * x.shape[-2]:
        return x, YES, column // 4
    x = cupy.ascontiguousarray(x)
    return x, NO, x.shape[-1]
