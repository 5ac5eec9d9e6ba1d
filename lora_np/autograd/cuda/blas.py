"""Matrix products by cuBLAS, with transposes as flags and not as copies.

`cupy.matmul` copies stacks of matrices that are not laid out one after another, cannot add to what is there, and cannot
be recorded (see `record.py`). So cuBLAS, which CuPy has loaded, is called here directly.
"""

import ctypes
import functools
import threading

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from .. import precision

NO, YES = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
FLOAT32, ANY_ALGORITHM = 0, -1  # CUDA_R_32F, CUBLAS_GEMM_DEFAULT
TYPES = {"float32": FLOAT32, "float16": 2, "bfloat16": 14}  # CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF
COMPUTE_FLOAT32, COMPUTE_TF32 = 68, 77  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32
WORKSPACE = 1 << 25  # bytes that cuBLAS may work in


def gemm(a, b, out=None, alpha=1.0, beta=0.0, dtype=None):
    """alpha · a b + beta · out, for matrices a (m, k), b (k, n), or stacks of them (s, m, k), (s, k, n).

    `out` (m, n) or (s, m, n) is made if it is not given, in `dtype`, or that of a; it may be a part of a larger array,
    with adjacent columns. Matrices may be transposed views. float32 is multiplied in TF32 if `set_tf32(True)` was
    called. float16 and bfloat16 are multiplied as they are and added up in float32; `out` may be in float32. Where
    a and b differ, the one in float32 is rounded to the other's dtype.
    """
    (m, k), n = a.shape[-2:], b.shape[-1]
    if a.dtype != b.dtype:
        kind = narrower(a, b)
        a, b = a.astype(kind, copy=False), b.astype(kind, copy=False)
    out = cupy.empty((*a.shape[:-1], n), a.dtype if dtype is None else dtype) if out is None else out
    if out.size == 0:
        return out
    if k == 0:
        out[...] = out * beta if beta else 0
        return out
    (a, flag_a, step_a), (b, flag_b, step_b) = layout(a), layout(b)
    step_out, (given, made) = out.strides[-2] // out.itemsize, (TYPES[x.dtype.name] for x in (a, out))
    mode = compute_mode(a.dtype)
    # cuBLAS counts columns first. Read that way our arrays are transposed, and outᵀ = bᵀ aᵀ.
    sizes = (workplace()[0], flag_b, flag_a, n, m, k, number(alpha))
    left, right = (b.data.ptr, given, step_b), (a.data.ptr, given, step_a)
    result = (out.data.ptr, made, step_out)
    if a.ndim == 2:
        status = _library().cublasGemmEx(*sizes, *left, *right, number(beta), *result, mode, ANY_ALGORITHM)
    else:
        steps = (x.strides[0] // x.itemsize for x in (b, a, out))
        left, right, result = ((*x, step) for x, step in zip((left, right, result), steps, strict=True))
        end = (len(out), mode, ANY_ALGORITHM)
        status = _library().cublasGemmStridedBatchedEx(*sizes, *left, *right, number(beta), *result, *end)
    if status:
        raise RuntimeError(f"cuBLAS refused a product of {a.shape} and {b.shape} (status {status})")
    return out


def narrower(a, b):
    """The dtype of the one of two arrays that is in 16 bits; of the first if both are, or none."""
    return b.dtype if b.itemsize < a.itemsize else a.dtype


def compute_mode(dtype):
    """How cuBLAS is to multiply matrices of this dtype; it adds up in float32 in any case."""
    return COMPUTE_TF32 if dtype.itemsize == 4 and precision.tf32_enabled() else COMPUTE_FLOAT32


def load(name):
    """One of cuBLAS's libraries, in the version that CuPy has loaded."""
    version = cublas.getVersion(cupy.cuda.device.get_cublas_handle())
    return ctypes.CDLL(f"lib{name}.so.{version // 10000}")


@functools.cache
def _library():
    """cuBLAS, with the types of what it is given."""
    library = load("cublas")
    pointer, number, step = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    start = [pointer, number, number, number, number, number, pointer]
    matrix, end = [pointer, number, number], [number, number]
    library.cublasGemmEx.argtypes = [*start, *matrix, *matrix, pointer, *matrix, *end]
    matrix = [*matrix, step]
    library.cublasGemmStridedBatchedEx.argtypes = [*start, *matrix, *matrix, pointer, *matrix, number, *end]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    return library


class _Handles(threading.local):
    """For each device, this thread's cuBLAS handle, its workspace, and the stream that it was last set to."""

    def __init__(self):
        self.of = {}


_handles = _Handles()


def workplace():
    """(handle, workspace, stream) of this thread: cuBLAS for the current device, working in the current stream."""
    device, stream = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr
    if device not in _handles.of:
        handle = ctypes.c_void_p()
        _library().cublasCreate_v2(ctypes.byref(handle))
        _handles.of[device] = [handle, cupy.cuda.Memory(WORKSPACE), None]
    entry = _handles.of[device]
    handle, workspace, before = entry
    if stream != before:
        _library().cublasSetStream_v2(handle, stream)
        _library().cublasSetWorkspace_v2(handle, workspace.ptr, WORKSPACE)
        entry[2] = stream
    return handle, workspace.ptr, stream


@functools.lru_cache(maxsize=256)
def _scalar(value):
    array = np.array(value, np.float32)
    return array, array.ctypes.data


def number(value):
    """The address of a float32 with this value."""
    return _scalar(value)[1]


def layout(x):
    """(array, whether it is transposed, numbers from one row to the next); a copy only if neither way fits."""
    (row, column), size = x.strides[-2:], x.itemsize
    if column == size and row >= size * x.shape[-1]:
        return x, NO, row // size
    if row == size and column >= size * x.shape[-2]:
        return x, YES, column // size
    x = cupy.ascontiguousarray(x)
    return x, NO, x.shape[-1]
