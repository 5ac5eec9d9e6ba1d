"""Attention in 16 bits by cuDNN, which never writes the scores to memory (Dao et al., 2022, "FlashAttention").

It comes with the package nvidia-cudnn-frontend, in the extras `cuda12` and `cuda13`. q, k and v are read where they
are, heads need not be moved: in GPT-2 they are views of the joint projection's result, and gradients are written into
views of one array. The backward pass computes the probabilities again, from q, k and one number for each query, the
logarithm of the sum of its exponentials. What cuDNN does not do, the kernels in `attention.py` do: float32, dropout,
padding, more keys than queries.
"""

import functools
import threading
import warnings
from typing import NamedTuple

import cupy
import numpy as np

MOST_CHANNELS = 128  # of a head
LEAST_VERSION = 90300  # of cuDNN
GRADIENTS = ("dq", "dk", "dv")
# Where rows hold several texts (texts.py): how long each is, and where it begins in each array.
TOLD = ("lengths", *(f"{name} begins" for name in ("q", "k", "v", "out", "dout", *GRADIENTS)))


class Saved(NamedTuple):
    """What the gradients need: inputs, result, and the logarithm of each query's sum of exponentials (B, H, T, 1)."""

    arrays: dict
    causal: bool
    scale: float
    needs: tuple
    window: int | None


class Plan(NamedTuple):
    """A graph of cuDNN's, built; {name of an array: its tensor}, and how many bytes it works in."""

    graph: object
    tensors: dict
    workspace: int


def forward(q, k, v, causal, scale, needs, out=None, window=None):
    """(softmax(s Q Kᵀ) V, what the gradients need) for q (B, H, T, D), k and v (B, K, S, D); None if cuDNN does not.

    window: with `causal`, each query sees the key at its own place and the window - 1 before it.
    out: the array to write to; a new one is (B, T, H, D) in memory.
    """
    if not may(q, k, v, causal) or (cudnn := library()) is None:
        return None
    q, k, v = map(readable, (q, k, v))
    arrays = {"q": q, "k": k, "v": v, "out": by_time(q) if out is None else out}
    arrays["sums"] = cupy.empty((*q.shape[:3], 1), np.float32)
    plan = _plan(cudnn, arrays, causal, scale, window)
    if plan is None or (any(needs) and _plan(cudnn, _with_gradients(arrays), causal, scale, window) is None):
        return None
    run(cudnn, plan, arrays)
    return arrays["out"], Saved(arrays, causal, scale, needs, window)


def backward(dout, saved, out=None):
    """dq, dk, dv; `out` may be the three arrays to write them to."""
    cudnn, (q, k, v) = library(), (saved.arrays[name] for name in "qkv")
    out = [by_time(x) for x in (q, k, v)] if out is None else out
    arrays = {**saved.arrays, "dout": readable(dout), **dict(zip(GRADIENTS, out, strict=True))}
    plan = _plan(cudnn, arrays, saved.causal, saved.scale, saved.window)
    if plan is None:
        raise RuntimeError(f"cuDNN has no gradient of attention for q {q.shape}, k and v {k.shape}, as they are stored")
    run(cudnn, plan, arrays)
    return tuple(d if need else None for d, need in zip(out, saved.needs, strict=True))


@functools.cache
def library():
    """The module cudnn, if it is installed and can be used; None, after a warning that says why, if it cannot."""
    try:
        import cudnn
    except ModuleNotFoundError:
        return None
    try:
        if cudnn.backend_version() >= LEAST_VERSION:
            return cudnn
        found = f"it is version {cudnn.backend_version()}, and {LEAST_VERSION} is needed"
    except Exception as error:  # whatever it raises where libcudnn is missing
        found = str(error)
    warnings.warn(f"attention goes without cuDNN, which cannot be used: {found}", stacklevel=2)
    return None


def may(q, k, v, causal):
    """Is this attention of a kind that cuDNN knows?"""
    D = q.shape[-1]
    if not q.dtype == k.dtype == v.dtype or q.itemsize != 2 or D % 8 or D > MOST_CHANNELS or q.size == 0:
        return False
    return q.shape[2] > 1 and (not causal or q.shape[2] == k.shape[2])


def by_time(x):
    """A new array of the shape (B, H, T, D) of x, in which the heads of each position lie side by side."""
    B, H, T, D = x.shape
    return cupy.empty((B, T, H, D), x.dtype).swapaxes(1, 2)


def readable(x):
    """x itself, if its channels lie side by side and all begins at multiples of 16 bytes, else a copy."""
    fits = x.strides[-1] == x.itemsize and x.data.ptr % 16 == 0 and all(step % 16 == 0 for step in x.strides[:-1])
    return x if fits else cupy.ascontiguousarray(x)


def _with_gradients(arrays):
    """The arrays of the backward pass, if gradients lie in memory as what they are the gradients of."""
    return {**arrays, "dout": arrays["out"], **{name: arrays[name[1:]] for name in GRADIENTS}}


def _plan(cudnn, arrays, causal, scale, window=None):
    """The plan for these arrays, {name: array}. None if cuDNN knows none."""
    layouts = tuple((name, x.shape, steps(x)) for name, x in arrays.items())
    return plan_of(cudnn, arrays["q"].dtype.name, layouts, causal, scale, window)


def steps(x):
    """The strides of x, counted in numbers and not in bytes."""
    return tuple(step // x.itemsize for step in x.strides)


def plan_of(cudnn, dtype, layouts, causal, scale, window=None):
    """The plan for arrays of these (name, shape, steps); kept for each thread, as its handle is. None as above."""
    owner = cupy.cuda.runtime.getDevice(), threading.get_ident()
    return _built(cudnn, owner, dtype, layouts, causal, float(scale), window)


@functools.lru_cache(maxsize=256)
def _built(cudnn, owner, dtype, layouts, causal, scale, window):
    types = cudnn.data_type
    kind = types.BFLOAT16 if dtype == "bfloat16" else types.HALF
    graph = cudnn.pygraph(
        io_data_type=kind, intermediate_data_type=types.FLOAT, compute_data_type=types.FLOAT, handle=_handle(cudnn)
    )
    layouts = {name: (shape, steps) for name, shape, steps in layouts}
    back = "dout" in layouts
    read = ("q", "k", "v", "out", "dout", "sums") if back else ("q", "k", "v")
    told = [name for name in layouts if name in TOLD]  # of texts
    kinds = {"sums": types.FLOAT, **dict.fromkeys(told, types.INT32)}
    tensors = {
        name: graph.tensor(
            name=name, dim=list(layouts[name][0]), stride=list(layouts[name][1]), data_type=kinds.get(name, kind)
        )
        for name in (*read, *told)
    }
    bounds = {"use_causal_mask": causal}
    if window is not None:
        bounds = {"diagonal_band_right_bound": 0, "diagonal_band_left_bound": window}
    options = {"attn_scale": scale, **bounds}
    if told:
        lengths = {"seq_len_q": tensors["lengths"], "seq_len_kv": tensors["lengths"]}
        options |= {"use_padding_mask": True, **lengths}
        for name in set(read) - {"sums"}:
            tensors[name].set_ragged_offset(tensors[f"{name} begins"])
    if back:
        given = {"q": "q", "k": "k", "v": "v", "o": "out", "dO": "dout", "stats": "sums"}
        results = graph.sdpa_backward(**{name: tensors[ours] for name, ours in given.items()}, **options)
        written = dict(zip(GRADIENTS, results, strict=True))
    else:
        out, sums = graph.sdpa(**{name: tensors[name] for name in read}, generate_stats=True, **options)
        written = {"out": out, "sums": sums}
    for name, tensor in written.items():
        shape, steps = layouts[name]
        tensor.set_output(True).set_dim(list(shape)).set_stride(list(steps))
        tensor.set_data_type(kinds.get(name, kind))
        if told and name != "sums":
            tensor.set_ragged_offset(tensors[f"{name} begins"])
    try:
        graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    except cudnn.cudnnGraphNotSupportedError:
        return None
    return Plan(graph, {**tensors, **written}, graph.get_workspace_size())


class _Handles(threading.local):
    """For each device, this thread's handle."""

    def __init__(self):
        self.of = {}


_handles = _Handles()


def _handle(cudnn):
    device = cupy.cuda.runtime.getDevice()
    if device not in _handles.of:
        _handles.of[device] = cudnn.create_handle()
    return _handles.of[device]


def run(cudnn, plan, arrays):
    """Start the plan's work in the current stream."""
    handle = _handle(cudnn)
    cudnn.set_stream(handle=handle, stream=cupy.cuda.get_current_stream().ptr)
    room = cupy.empty(max(1, plan.workspace), np.uint8)
    addresses = {tensor: arrays[name].data.ptr for name, tensor in plan.tensors.items()}
    plan.graph.execute(addresses, room.data.ptr, handle=handle)
