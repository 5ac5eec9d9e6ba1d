"""Scores along an axis as probabilities, for what is computed beside a model; inside, fused operations do this."""

from .devices import array_module
from .float_types import is_floating
from .ops import axes_of
from .shape_ops import astype
from .tensor import data, record
from .wide import in_float32


def softmax(a, dim, dtype=None):
    """y_i = e^(a_i) / Σ_j e^(a_j) along the axis `dim`. da = y (dy - Σ_j dy_j y_j). Saves y.

    dtype: a is turned into this before. The largest a_i is subtracted from all first, so that nothing overflows.
    """
    return _softmax(_floats(a, dtype, "softmax"), dim)


@in_float32
def _softmax(a, dim):
    axis = axes_of(dim, a.ndim)
    y = _exponentials(data(a), axis)
    y /= y.sum(axis=axis, keepdims=True)
    return record(y, (a,), lambda dy: (y * (dy - (dy * y).sum(axis=axis, keepdims=True)),))


def log_softmax(a, dim, dtype=None):
    """y_i = a_i - ln Σ_j e^(a_j) along the axis `dim`. da_i = dy_i - e^(y_i) Σ_j dy_j. Saves y."""
    return _log_softmax(_floats(a, dtype, "log_softmax"), dim)


@in_float32
def _log_softmax(a, dim):
    axis, xp = axes_of(dim, a.ndim), array_module(data(a))
    y = data(a) - data(a).max(axis=axis, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return record(y, (a,), lambda dy: (dy - xp.exp(y) * dy.sum(axis=axis, keepdims=True),))


@in_float32
def logsumexp(a, dim, keepdim=False):
    """y = ln Σ_j e^(a_j) over the axis `dim`. da_i = dy e^(a_i - y). Saves a and y."""
    a = _floats(a, None, "logsumexp")
    x, axis, xp = data(a), axes_of(dim, a.ndim), array_module(data(a))
    y = xp.log(_exponentials(x, axis).sum(axis=axis, keepdims=True)) + x.max(axis=axis, keepdims=True)
    shape = y.shape if keepdim else y.squeeze(axis).shape
    return record(y.reshape(shape), (a,), lambda dy: (dy.reshape(y.shape) * xp.exp(x - y),))


def _exponentials(x, axis):
    """e^(x - the largest x along `axis`)."""
    return array_module(x).exp(x - x.max(axis=axis, keepdims=True))


def _floats(a, dtype, name):
    a = a if dtype is None else astype(a, dtype)
    if not is_floating(a.dtype):
        raise TypeError(f"{name} needs floating-point numbers, not {a.dtype}: x.float().{name}(...)")
    return a
