"""Attention by tiles on a GPU's tensor cores: compiles flash_attention.cu for an NVIDIA GPU, and calls it.

The file in CUDA has the steps of `tiles.py`, with other places for the numbers. It is there to be read beside that one.
Models do not use it: where cuDNN is installed, the library calls cuDNN's (`lora_np/autograd/cuda/flash.py`).
"""

import functools
from importlib.resources import files

import numpy as np

from lora_np.autograd.devices import check_bfloat16, load_cupy
from lora_np.nn import float_type

WARPS = 4  # of a block of threads; each owns 16 rows
MOST_CHANNELS = 128
LEAST_CAPABILITY = 80  # 8.0 (Ampere): the first with tensor cores for bfloat16


def supported():
    """Can the kernel run here: is there a GPU whose tensor cores know bfloat16, and a CuPy that does?"""
    try:
        cupy = load_cupy()
        check_bfloat16(float_type("bfloat16"), cupy)
    except (ImportError, RuntimeError):
        return False
    return int(cupy.cuda.Device().compute_capability) >= LEAST_CAPABILITY


def attention(q, k, v, causal=True):
    """O = softmax(Q Kᵀ / √D) V and, for each query, L = log Σ exp(S) over the keys that it sees.

    q, k, v (B, T, H, D), CuPy's, in bfloat16 -> O (B, T, H, D), L (B, H, T) in float32. D is a multiple of 16, at most
    128. What is multiplied has 16 bits; it adds up in float32. ValueError for other arrays.
    """
    q, k, v = _checked(q, k, v)
    B, T, H, _ = q.shape
    with q.device:
        out, log_sum = load_cupy().empty_like(q), load_cupy().empty((B, H, T), np.float32)
        _start("flash_forward", causal, q, k, v, out, log_sum)
    return out, log_sum


def attention_backward(dout, q, k, v, out, log_sum, causal=True):
    """dQ, dK, dV from dO (B, T, H, D). Of the forward pass its inputs, O and L are needed; P is computed again.

    The gradients are the same numbers each time: nothing is added up in an order that depends on who comes first.
    """
    dout, q, k, v, out = _checked(dout, q, k, v, out)
    if log_sum.shape != (q.shape[0], q.shape[2], q.shape[1]):
        raise ValueError(f"expected L of the forward pass, (B, H, T), beside q {q.shape}, got {log_sum.shape}")
    with q.device:
        delta = load_cupy().empty_like(log_sum)
        dq, dk, dv = (load_cupy().empty_like(q) for _ in range(3))
        _start("flash_queries", causal, q, k, v, out, dout, log_sum, delta, dq)
        _start("flash_keys", causal, q, k, v, dout, log_sum, delta, dk, dv)
    return dq, dk, dv


def source(kernel=None):
    """The text of flash_attention.cu, or of one of its three kernels."""
    text = files("lora_course").joinpath("flash_attention.cu").read_text(encoding="utf-8")
    if kernel is None:
        return text
    name = text.index(f"\n{kernel}(")
    return text[text.rindex("extern", 0, name) : text.index("\n}\n", name) + 3]


@functools.cache
def _module(head_size, device):
    """The three kernels for one size of head, compiled."""
    cupy = load_cupy()
    found = int(cupy.cuda.Device(device).compute_capability)
    if found < LEAST_CAPABILITY:
        raise RuntimeError(f"the kernel needs a GPU of compute capability 8.0 or newer, this one has {found / 10:.1f}")
    options = ("--std=c++17", "--use_fast_math", f"-DHEAD_SIZE={head_size}", f"-DWARPS={WARPS}")
    return cupy.RawModule(code=source(), options=options)


def _start(name, causal, *arrays):
    """Start a kernel: a block of threads for every 16 · WARPS rows of each head of each text."""
    B, T, H, D = arrays[0].shape
    kernel = _module(D, arrays[0].device.id).get_function(name)
    numbers = np.int32(T), np.int32(H), np.float32(D**-0.5), np.bool_(causal)
    kernel((-(-T // (16 * WARPS)), H, B), (32 * WARPS,), (*arrays, *numbers))


def _checked(*arrays):
    """The arrays, or copies that the kernels can read; ValueError for what they cannot."""
    first = arrays[0]
    if first.dtype.name != "bfloat16" or first.ndim != 4 or 0 in first.shape:
        raise ValueError(f"expected numbers (B, T, H, D) in bfloat16, got {first.shape} in {first.dtype}")
    if first.shape[-1] % 16 or first.shape[-1] > MOST_CHANNELS:
        raise ValueError(f"expected heads of 16, 32, ... {MOST_CHANNELS} channels, got {first.shape[-1]}")
    for x in arrays:
        if (x.shape, x.dtype) != (first.shape, first.dtype):
            raise ValueError(f"expected arrays of one shape and type, got {x.shape} beside {first.shape}")
    return [x if x.flags.c_contiguous and x.data.ptr % 16 == 0 else x.copy() for x in arrays]
