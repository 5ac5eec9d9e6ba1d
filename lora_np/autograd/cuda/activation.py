"""GELU and SwiGLU in CUDA; derived in `fused/activation.py`.

There the slopes are kept for the backward pass. Here the inputs are, and the slopes are computed anew: arithmetic costs
a GPU less than writing them.
"""

import cupy

from .launch import number_by_number


def gelu_forward(x, approximate="tanh", needs=(True,)):
    """y = x Φ(x)."""
    x = cupy.ascontiguousarray(x)
    y = cupy.empty_like(x)
    number_by_number("gelu_forward", x, y, options=[approximate == "none"])
    return y, (x if needs[0] else None, approximate)


def gelu_backward(dy, cache):
    """dx."""
    x, approximate = cache
    dy = cupy.ascontiguousarray(dy)
    dx = cupy.empty_like(dy)
    number_by_number("gelu_backward", dy, x, dx, options=[approximate == "none"])
    return (dx,)


def swiglu_forward(gate, up, needs=(True, True)):
    """y = silu(gate) ∘ up."""
    gate, up = cupy.ascontiguousarray(gate), cupy.ascontiguousarray(up, dtype=gate.dtype)
    y = cupy.empty_like(gate)
    number_by_number("swiglu_forward", gate, up, y)
    return y, (gate, up, needs)


def swiglu_backward(dy, cache):
    """dgate, dup."""
    gate, up, needs = cache
    dy = cupy.ascontiguousarray(dy)
    dgate, dup = (cupy.empty_like(dy) if need else None for need in needs)
    number_by_number("swiglu_backward", dy, gate, up, dgate, dup)
    return dgate, dup
