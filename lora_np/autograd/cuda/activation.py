"""GELU and SwiGLU in CUDA; derived in `fused/activation.py`."""

import cupy

from .launch import by_elements, long


def gelu_forward(x, approximate="tanh", needs=(True,)):
    """y = x Φ(x), and its slope for the gradient."""
    x = cupy.ascontiguousarray(x)
    y, slope = cupy.empty_like(x), cupy.empty_like(x) if needs[0] else None
    by_elements("gelu_forward", x.size, x, y, slope, long(x.size), approximate == "none")
    return y, slope


def gelu_backward(dy, slope):
    """dx."""
    dy = cupy.ascontiguousarray(dy)
    dx = cupy.empty_like(dy)
    by_elements("gelu_backward", dy.size, dy, slope, dx, long(dy.size))
    return (dx,)


def swiglu_forward(gate, up, needs=(True, True)):
    """y = silu(gate) ∘ up."""
    gate, up = cupy.ascontiguousarray(gate), cupy.ascontiguousarray(up)
    y, slope, through = (cupy.empty_like(gate) if need else None for need in (True, *needs))
    by_elements("swiglu_forward", gate.size, gate, up, y, slope, through, long(gate.size))
    return y, (slope, through)


def swiglu_backward(dy, saved):
    """dgate, dup."""
    dy = cupy.ascontiguousarray(dy)
    dgate, dup = (None if kept is None else cupy.empty_like(dy) for kept in saved)
    by_elements("swiglu_backward", dy.size, dy, *saved, dgate, dup, long(dy.size))
    return dgate, dup
