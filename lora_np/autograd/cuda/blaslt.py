"""A matrix product that adds a bias as it writes its result, by cuBLASLt.

A bias added afterwards reads and writes the whole result once more: that was 0.6 ms of a GPT-2 step of 8 x 512 tokens,
which took 55.5 ms in float32 and 16.1 in TF32 (NVIDIA H200). cuBLASLt, a part of cuBLAS, adds it for nothing. It wants
a product described in advance; descriptions are kept, one for each shape.
"""

import ctypes
import functools
import threading

import cupy

from .blas import FLOAT32, TYPES, WORKSPACE, compute_mode, gemm, layout, load, number, workplace

TRANSPOSE_LEFT, TRANSPOSE_RIGHT, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8  # CUBLASLT_MATMUL_DESC_...
ADD_BIAS = 4  # CUBLASLT_EPILOGUE_BIAS
MOST_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)  # CUBLASLT_MATMUL_PREF_...: of the four matrices
ALIGNED = 16  # bytes; each array begins at a multiple of these
SUCCESS, NOT_SUPPORTED = 0, 15  # CUBLAS_STATUS_...


def gemm_with_bias(a, b, bias, out=None, beta=0.0):
    """a b + bias + beta · out, for a (m, k), b (k, n) of one dtype, bias (n,) -> (m, n); in the precision of `gemm`.

    `out` is made if it is not given.
    """
    (m, k), n = a.shape, b.shape[1]
    b, bias = b.astype(a.dtype, copy=False), bias.astype(a.dtype, copy=False)
    (a, *a_layout), (b, *b_layout), bias = layout(a), layout(b), cupy.ascontiguousarray(bias)
    plan = None
    written = () if out is None else (out,)  # the plan is for one without gaps
    if m * k * n and all(x.data.ptr % ALIGNED == 0 for x in (a, b, bias, *written)):
        owner = cupy.cuda.runtime.getDevice(), threading.get_ident()
        plan = _plan(owner, (m, k, n), (*a_layout, *b_layout), compute_mode(a.dtype), TYPES[a.dtype.name])
    if plan is None:
        out = gemm(a, b, out=out, beta=beta)
        out += bias
        return out
    out = cupy.empty((m, n), a.dtype) if out is None else out
    task, left, right, result, algorithm = plan
    handle, workspace, stream = workplace()
    _set("MatmulDesc", task, BIAS_POINTER, ctypes.c_void_p(bias.data.ptr))
    done = _call(
        "Matmul", handle, task, number(1.0), b.data.ptr, left, a.data.ptr, right,
        number(beta), out.data.ptr, result, out.data.ptr, result,
        ctypes.byref(algorithm), workspace, WORKSPACE, stream,
    )  # fmt: skip
    if not done:
        raise RuntimeError(f"cuBLASLt did not do a product of {a.shape} and {b.shape} with a bias that it had planned")
    return out


class _Way(ctypes.Structure):
    """A way to do a product that cuBLASLt proposes (cublasLtMatmulHeuristicResult_t)."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@functools.lru_cache(maxsize=1024)
def _plan(owner, sizes, layouts, mode, kind):
    """(task, left, right and result matrix, algorithm); None if cuBLASLt knows no way.

    The owner is a device and a thread, which has the plan for itself: the task is told the bias before each use.

    As in `blas.py`, everything is read by columns: resultᵀ (n, m) = bᵀ aᵀ. A bias has one number for each row of that.
    """
    (m, k, n), (flag_a, step_a, flag_b, step_b) = sizes, layouts
    task, wishes, found = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    _call("MatmulDescCreate", ctypes.byref(task), mode, FLOAT32)
    for attribute, value in ((TRANSPOSE_LEFT, flag_b), (TRANSPOSE_RIGHT, flag_a), (EPILOGUE, ADD_BIAS)):
        _set("MatmulDesc", task, attribute, ctypes.c_int(value))
    left = _matrix(kind, *((k, n) if flag_b else (n, k)), step_b)
    right = _matrix(kind, *((m, k) if flag_a else (k, m)), step_a)
    result = _matrix(kind, n, m, n)
    _call("MatmulPreferenceCreate", ctypes.byref(wishes))
    _set("MatmulPreference", wishes, MOST_WORKSPACE, ctypes.c_size_t(WORKSPACE))
    for attribute in ALIGNMENTS:
        _set("MatmulPreference", wishes, attribute, ctypes.c_uint32(ALIGNED))
    way = _Way()
    handle = workplace()[0]
    matrices = (left, right, result, result)
    known = _call("MatmulAlgoGetHeuristic", handle, task, *matrices, wishes, 1, ctypes.byref(way), ctypes.byref(found))
    _call("MatmulPreferenceDestroy", wishes)
    return (task, left, right, result, way.algorithm) if known and found.value and way.status == 0 else None


def _matrix(kind, rows, columns, step):
    """The description of a matrix that is stored by columns, which begin `step` numbers apart. kind: of `TYPES`."""
    found = ctypes.c_void_p()
    _call("MatrixLayoutCreate", ctypes.byref(found), kind, rows, columns, step)
    return found


def _set(kind, what, attribute, value):
    """Give an attribute of a description its value, a ctypes number."""
    _call(f"{kind}SetAttribute", what, attribute, ctypes.byref(value), ctypes.sizeof(value))


def _call(name, *arguments):
    """Was it done? False if cuBLASLt does not support what was asked for, RuntimeError for any other status."""
    status = getattr(_library(), f"cublasLt{name}")(*arguments)
    if status not in (SUCCESS, NOT_SUPPORTED):
        raise RuntimeError(f"cuBLASLt refused {name} (status {status})")
    return status == SUCCESS


@functools.cache
def _library():
    """cuBLASLt, with the types of what it is given where these are not plain ints."""
    library = load("cublasLt")
    pointer, number, size, step = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_longlong
    library.cublasLtMatrixLayoutCreate.argtypes = [pointer, number, ctypes.c_uint64, ctypes.c_uint64, step]
    for kind in ("MatmulDesc", "MatmulPreference"):
        getattr(library, f"cublasLt{kind}SetAttribute").argtypes = [pointer, number, pointer, size]
    library.cublasLtMatmul.argtypes = [*[pointer] * 14, size, pointer]
    library.cublasLtMatmulAlgoGetHeuristic.argtypes = [*[pointer] * 7, number, pointer, pointer]
    return library
