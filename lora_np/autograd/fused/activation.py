"""Activations: GELU in its exact and in GPT-2's approximate form, SiLU and its gated form SwiGLU, ReLU."""

import math

import numpy as np

from ..backend import array_module, blocks

LINEAR = math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR


def gelu_forward(x, approximate="tanh", needs=(True,)):
    r"""GELU, x times the probability that a standard normal number is below x. (Hendrycks and Gimpel, 2016.)

    approximate="none":  y = x Φ(x),  Φ(x) = (1 + erf(x / √2)) / 2,   slope = Φ(x) + x φ(x),  φ = e^(-x²/2) / √(2π)
    approximate="tanh":  y = x (1 + t) / 2,  t = tanh(u),  u = a x + b x³,  a = √(2/π),  b = 0.044715 a,
                         slope = (1 + t) / 2 + x (1 - t²) (a + 3b x²) / 2
    dx = dy ∘ slope. The slope is computed here, where x and t are at hand, and is all that is saved.
    """
    xp = array_module(x)
    flat = x.reshape(-1)
    y = xp.empty_like(flat)
    slope = xp.empty_like(flat) if needs[0] else None
    rule = {"tanh": _tanh_form, "none": _erf_form}[approximate]
    for block in blocks(flat.size, flat.itemsize, xp):
        rule(xp, flat[block], y[block], None if slope is None else slope[block])
    return y.reshape(x.shape), None if slope is None else slope.reshape(x.shape)


def gelu_backward(dy, slope):
    """dx of `gelu_forward`."""
    return (dy * slope,)


def silu_forward(x, needs=(True,)):
    r"""y = x σ(x), σ(x) = 1 / (1 + e^-x).  dx = dy ∘ σ (1 + x (1 - σ)); that slope is saved. (Elfwing et al., 2017.)"""
    sigmoid = _sigmoid(array_module(x), x)
    return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid)) if needs[0] else None


def silu_backward(dy, slope):
    """dx of `silu_forward`."""
    return (dy * slope,)


def swiglu_forward(gate, up, needs=(True, True)):
    r"""y = silu(gate) ∘ up: each channel of `up` is let through as far as its gate says. (Shazeer, 2020.)

    gate, up (..., I) -> y (..., I). With a = silu(gate) and silu' = σ (1 + gate (1 - σ)):
        dgate = dy ∘ up ∘ silu'(gate),      dup = dy ∘ a.
    Saved: up ∘ silu'(gate) and a, so that the backward is two products.
    """
    xp = array_module(gate)
    flat, other = gate.reshape(-1), up.reshape(-1)
    y = xp.empty_like(flat)
    through = xp.empty_like(flat) if needs[1] else None
    slope = xp.empty_like(flat) if needs[0] else None
    for block in blocks(flat.size, flat.itemsize, xp):
        x = flat[block]
        sigmoid = _sigmoid(xp, x)
        a = xp.multiply(x, sigmoid, out=through[block] if needs[1] else y[block])
        if needs[0]:  # σ (1 + x (1 - σ)) = σ + a (1 - σ)
            s = xp.subtract(1, sigmoid, out=slope[block])
            s *= a
            s += sigmoid
            s *= other[block]
        xp.multiply(a, other[block], out=y[block])
    saved = [None if kept is None else kept.reshape(gate.shape) for kept in (slope, through)]
    return y.reshape(gate.shape), saved


def swiglu_backward(dy, saved):
    """dgate, dup of `swiglu_forward`."""
    slope, through = saved
    return None if slope is None else dy * slope, None if through is None else dy * through


def relu_forward(x, needs=(True,)):
    """y = max(x, 0).  dx = dy where x > 0; where that is, is saved."""
    xp = array_module(x)
    return xp.maximum(x, 0), x > 0 if needs[0] else None


def relu_backward(dy, positive):
    """dx of `relu_forward`."""
    return (dy * positive,)


def _sigmoid(xp, x):
    """1 / (1 + e^-x) as a new array. Where e^-x overflows, the result is 0, as it should be."""
    y = xp.negative(x, out=xp.empty_like(x))
    with np.errstate(over="ignore"):
        xp.exp(y, out=y)
    y += 1
    return xp.reciprocal(y, out=y)


def _tanh_form(xp, x, y, slope):
    """Fill `y`, and `slope` if it is wanted. `half` is (1 + t) / 2, `curve` starts as x²; both are reused."""
    curve = x * x
    half = curve * CUBIC
    half += LINEAR
    half *= x
    xp.tanh(half, out=half)
    half += 1
    half *= 0.5
    xp.multiply(x, half, out=y)
    if slope is not None:  # x (1 - t²) / 2 = 2 y (1 - half)
        curve *= 6 * CUBIC
        curve += 2 * LINEAR
        curve *= y
        xp.subtract(1, half, out=slope)
        slope *= curve
        slope += half


def _erf_form(xp, x, y, slope):
    """Fill `y`, and `slope` if it is wanted. The error function is SciPy's (CuPy's on a GPU)."""
    if xp.__name__ == "cupy":
        from cupyx.scipy.special import erf
    else:
        from scipy.special import erf
    below = erf(x * math.sqrt(0.5))
    below += 1
    below *= 0.5
    xp.multiply(x, below, out=y)
    if slope is not None:
        xp.multiply(x, x, out=slope)
        slope *= -0.5
        xp.exp(slope, out=slope)
        slope *= x
        slope *= 1 / math.sqrt(2 * math.pi)
        slope += below
