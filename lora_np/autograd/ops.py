"""The small operations: each is a forward pass and, inside it, the `backward` that carries the gradient back.

All are written alike. `needs_grad` is asked first; what no gradient needs is not kept. `backward(dy)` takes the
gradient of the result, dy = dL/dy, and returns the gradient of each input, or None where nobody needs it.
Inputs may be Tensors, arrays or Python numbers; only Tensors get gradients. Broadcasting is NumPy's: where an
input was repeated to fit, its gradient is summed over the repeats (`unbroadcast`).
"""

import math

import numpy as np

from . import dispatch
from .broadcasting import check_same_device, operand, operands, unbroadcast
from .devices import array_module
from .random import generator
from .tensor import needs_grad, record
from .wide import in_float32


def add(a, b):
    """y = a + b. da = dy, db = dy. Nothing is saved."""
    x, w = operands(a, b, "add")
    need_a, need_b = needs_grad(a, b)
    shape_a, shape_b = np.shape(x), np.shape(w)

    def backward(dy):
        return unbroadcast(dy, shape_a) if need_a else None, unbroadcast(dy, shape_b) if need_b else None

    return record(dispatch.add(x, w), (a, b), backward)


def sub(a, b):
    """y = a - b. da = dy, db = -dy. Nothing is saved."""
    x, w = operands(a, b, "sub")
    need_a, need_b = needs_grad(a, b)
    shape_a, shape_b = np.shape(x), np.shape(w)

    def backward(dy):
        return unbroadcast(dy, shape_a) if need_a else None, unbroadcast(-dy, shape_b) if need_b else None

    return record(x - w, (a, b), backward)


def mul(a, b):
    """y = a b, elementwise. da = dy b, db = dy a. Each input is saved only if the other's gradient is needed."""
    x, w = operands(a, b, "mul")
    need_a, need_b = needs_grad(a, b)
    shape_a, shape_b = np.shape(x), np.shape(w)
    saved_a, saved_b = x if need_b else None, w if need_a else None

    def backward(dy):
        da = unbroadcast(dy * saved_b, shape_a) if need_a else None
        db = unbroadcast(dy * saved_a, shape_b) if need_b else None
        return da, db

    return record(x * w, (a, b), backward)


def div(a, b):
    """y = a / b. da = dy / b, db = -dy y / b. Saves b, and y if db is needed."""
    x, denominator = operands(a, b, "div", floats=True)
    need_a, need_b = needs_grad(a, b)
    shape_a, shape_b = np.shape(x), np.shape(denominator)
    y = x / denominator
    saved_y, saved_b = y if need_b else None, denominator

    def backward(dy):
        da = dy / saved_b
        db = unbroadcast(-da * saved_y, shape_b) if need_b else None
        return unbroadcast(da, shape_a) if need_a else None, db

    return record(y, (a, b), backward)


def power(a, exponent):
    """y = a^n for a fixed Python number n. da = dy n a^(n-1). Saves a."""
    if not isinstance(exponent, (int, float)):
        raise TypeError(f"power: the exponent must be a Python number, not {type(exponent).__name__}")
    x, n = operand(a), exponent

    def backward(dy):
        return (dy * (n * x ** (n - 1)) if n != 0 else dy * 0,)

    return record(x**n, (a,), backward)


def neg(a):
    """y = -a. da = -dy."""
    return record(-operand(a), (a,), lambda dy: (-dy,))


def matmul(a, b):
    """y = a b, the matrix product over the last two axes; leading axes broadcast; 1-D inputs are vectors.

    a (..., n, k), b (..., k, m) -> y (..., n, m). da = dy bᵀ, db = aᵀ dy. Each input is saved only if the
    other's gradient is needed.
    """
    x, w = operand(a), operand(b)
    if np.ndim(x) == 0 or np.ndim(w) == 0:
        raise ValueError("matmul: both inputs need at least one axis; use * for a number")
    check_same_device(x, w, "matmul")
    xp = array_module(x)
    x2, w2 = x[None, :] if x.ndim == 1 else x, w[:, None] if w.ndim == 1 else w
    try:
        if x2.shape[-1] != w2.shape[-2]:
            raise ValueError
        np.broadcast_shapes(x2.shape[:-2], w2.shape[:-2])
    except ValueError:
        raise ValueError(f"matmul: shapes {x.shape} and {w.shape} do not fit (.., n, k) @ (.., k, m)") from None
    need_a, need_b = needs_grad(a, b)
    shape_a, shape_b = x.shape, w.shape
    y = _product(x2, w2)
    full = y.shape
    saved_a, saved_b = x2 if need_b else None, w2 if need_a else None

    def backward(dy):
        dy = dy.reshape(full)
        da = _matmul_unbroadcast(xp, dy, saved_b.swapaxes(-1, -2), shape_a) if need_a else None
        db = _matmul_unbroadcast(xp, saved_a.swapaxes(-1, -2), dy, shape_b) if need_b else None
        return da, db

    squeezed = full[:-2] + (() if x.ndim == 1 else full[-2:-1]) + (() if w.ndim == 1 else full[-1:])
    return record(y.reshape(squeezed), (a, b), backward)


def _product(x, w):
    """x w; a stack of matrices times one matrix is one large product, not many small ones."""
    if x.ndim > 2 and w.ndim == 2:
        rows = math.prod(x.shape[:-1])
        return dispatch.matmul(x.reshape(rows, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])
    return dispatch.matmul(x, w)


def _matmul_unbroadcast(xp, x, w, shape):
    """x w, summed over the leading axes that an input of this `shape` did not have."""
    if len(shape) == 2 and x.ndim == w.ndim > 2:  # the sum over the stack is part of one larger product
        x, w = xp.moveaxis(x, -2, 0), xp.moveaxis(w, -1, 0)
        stacked = math.prod(x.shape[1:])
        return dispatch.matmul(x.reshape(len(x), stacked), w.reshape(len(w), stacked).T)
    y = _product(x, w)
    target = shape if len(shape) > 1 else (y.shape[-2:] if y.ndim > 1 else y.shape)
    return unbroadcast(y, target).reshape(shape)


def axes_of(axis, ndim):
    """`axis` (None, an int or a tuple) as a tuple of non-negative ints."""
    axes = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    if any(not -ndim <= i < ndim for i in axes):
        raise ValueError(f"axis {axis} does not exist in a tensor with {ndim} axes")
    return tuple(i % ndim for i in axes)


def _kept_shape(shape, axes):
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


@in_float32
def sum(a, axis=None, keepdims=False):
    """y = the sum of a over `axis` (an int, a tuple, or None for all). da = dy, repeated. Nothing is saved."""
    x = operand(a)
    xp, shape, axes = array_module(x), x.shape, axes_of(axis, x.ndim)

    def backward(dy):
        return (xp.broadcast_to(dy.reshape(_kept_shape(shape, axes)), shape),)

    return record(x.sum(axis=axes, keepdims=keepdims), (a,), backward)


@in_float32
def mean(a, axis=None, keepdims=False):
    """y = the mean of a over `axis`. da = dy / n, repeated, n being the number of values averaged."""
    shape = np.shape(operand(a))
    n = math.prod(shape[i] for i in axes_of(axis, len(shape)))
    if n == 0:
        raise ValueError(f"mean: nothing to average in shape {shape} over axis {axis}")
    return sum(a, axis, keepdims) * (1.0 / n)


def max(a, axis=None, keepdims=False):
    """y = the largest value over `axis`. da = dy where a is the largest, shared equally between ties."""
    x = operand(a)
    axes = axes_of(axis, x.ndim)
    y = x.max(axis=axes, keepdims=True)
    kept = y.shape

    def backward(dy):
        largest = x == y
        share = largest / largest.sum(axis=axes, keepdims=True)
        return (dy.reshape(kept) * share.astype(dy.dtype),)

    out = y if keepdims else y.reshape(tuple(n for i, n in enumerate(kept) if i not in axes))
    return record(out, (a,), backward)


def exp(a):
    """y = e^a. da = dy y. Saves y."""
    x = operand(a)
    y = array_module(x).exp(x)
    return record(y, (a,), lambda dy: (dy * y,))


def log(a):
    """y = ln a. da = dy / a. Saves a."""
    x = operand(a)
    return record(array_module(x).log(x), (a,), lambda dy: (dy / x,))


def tanh(a):
    """y = tanh a. da = dy (1 - y²). Saves y."""
    x = operand(a)
    y = array_module(x).tanh(x)
    return record(y, (a,), lambda dy: (dy * (1 - y * y),))


def sqrt(a):
    """y = √a. da = dy / (2 y). Saves y."""
    x = operand(a)
    y = array_module(x).sqrt(x)
    return record(y, (a,), lambda dy: (dy * 0.5 / y,))


def _check_probability(p):
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability must be in [0, 1), got {p}")


def dropout_mask(shape, p, like):
    """An array of `shape`, of the library and dtype of `like`: 0 with probability p, else 1 / (1 - p).

    On a GPU from `cuda/dropout.py`, which does not draw other numbers where work is recorded.
    """
    _check_probability(p)
    if (kernel := dispatch.implementation("dropout_mask", (like,))) is not None:
        return kernel(like, shape, p)
    xp = array_module(like)
    dtype = np.float64 if like.dtype == np.float64 else np.float32
    keep = generator(xp).random(shape, dtype=dtype) >= p
    return keep * like.dtype.type(1 / (1 - p))


def dropout(a, p, training=True):
    """y = a with each value set to 0 with probability p and the others divided by 1 - p, so the mean stays.

    da = dy times the same mask. Outside training, or with p = 0, y is a itself. (Srivastava et al., 2014.)
    """
    _check_probability(p)
    if not training or p == 0:
        return a
    return mul(a, dropout_mask(np.shape(operand(a)), p, operand(a)))
