"""Gradient checks: is the derivative that an operation claims the one that it has?"""

import numpy as np

from ..expect import expect_list
from .devices import array_module, to_numpy
from .tensor import Tensor


class GradientError(AssertionError):
    """A gradient differs from what finite differences give. The message says which, where and by how much."""


def gradcheck(function, inputs, eps=1e-6, rtol=1e-5, atol=1e-7, seed=0):
    r"""Compare the gradients of `function(*inputs)` with central differences; return the largest difference.

    inputs: Tensors (float64 for the default tolerances) or anything else the function takes. With a random
    cotangent v, the scalar L = Σ v∘f(x) has the gradient that backward(v) computes, and, for each entry,
        dL/dx ≈ (L(x + eps) - L(x - eps)) / (2 eps),
    whose error is of order eps² + rounding/eps. A random v, unlike all ones, leaves no mistake a place to
    cancel. Raises GradientError if an entry differs by more than atol + rtol·|entry|.
    """
    if isinstance(inputs, Tensor):
        raise TypeError("inputs should be a list, also of a single Tensor: gradcheck(f, [x])")
    inputs = expect_list(inputs, "inputs", "a list of Tensors, and of what else the function takes")
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    if not tensors:
        raise ValueError("gradcheck: no input requires a gradient, there is nothing to check")
    for x in tensors:
        x.grad = None
    y = function(*inputs)
    xp = array_module(y.data)
    v = xp.asarray(np.random.default_rng(seed).standard_normal(y.shape), dtype=y.dtype)
    y.backward(v)
    worst = 0.0
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x.requires_grad:
            worst = max(worst, _compare(i, x, _differences(function, inputs, x, v, eps), rtol, atol))
    return worst


def _differences(function, inputs, x, v, eps):
    """The central differences of Σ v∘f with respect to every entry of `x`, as a NumPy array."""

    def loss():
        return float((function(*inputs).data * v).sum())

    out = np.empty(x.shape)
    original = x.data
    try:
        for index in np.ndindex(x.shape):
            values = []
            for step in (eps, -eps):
                x.data = original.copy()
                x.data[index] += step
                values.append(loss())
            out[index] = (values[0] - values[1]) / (2 * eps)
    finally:
        x.data = original
    return out


def _compare(i, x, expected, rtol, atol):
    """The largest difference between x.grad and `expected`; a GradientError if it is too large."""
    if x.grad is None:
        raise GradientError(f"input {i}, shape {x.shape}: backward() left no gradient")
    if x.grad.shape != x.shape:
        raise GradientError(f"input {i}: the gradient has shape {x.grad.shape}, the input {x.shape}")
    found = to_numpy(x.grad)
    difference = np.abs(found - expected)
    allowed = atol + rtol * np.abs(expected)
    wrong = ~(difference <= allowed)  # so that NaN counts as wrong
    if wrong.any():
        excess = np.where(np.isnan(difference), np.inf, difference - allowed)
        worst = np.unravel_index(np.argmax(excess), x.shape)
        raise GradientError(
            f"input {i}, shape {x.shape}: at index {tuple(map(int, worst))} backward() gives {found[worst]:.8g}, "
            f"central differences {expected[worst]:.8g}; {int(wrong.sum())} of {x.size} entries differ"
        )
    return float(difference.max(initial=0.0))
