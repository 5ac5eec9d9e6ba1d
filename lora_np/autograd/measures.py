"""How large the numbers of a Tensor are: absolute values, norms, bounds, spread."""

import math

from .devices import array_module
from .ops import axes_of, mean, sum
from .ops import max as largest
from .tensor import data, record
from .wide import in_float32


def abs(a):
    """y = |a|. da = dy times the sign of a, 0 where a is 0. Saves a."""
    x = data(a)
    xp = array_module(x)
    return record(xp.abs(x), (a,), lambda dy: (dy * xp.sign(x),))


def clamp(a, min=None, max=None):  # noqa: A002  torch's names
    """y = a, moved to `min` or `max` (numbers, or None) where it lies beyond. da = dy elsewhere. Saves a, y."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    x = data(a)
    y = array_module(x).clip(x, min, max)
    return record(y, (a,), lambda dy: (dy * (x == y),))


@in_float32
def norm(a, p=2, dim=None, keepdim=False):
    """y = (Σ |a|^p)^(1/p) over `dim` (None: all), p = 1, 2 (also "fro") or infinity. Saves a and y.

    p = 2: da = dy a / y, and 0 where y is 0, as torch has it. p = 1: dy times the sign. p = ∞: see `ops.max`.
    """
    if p == 1:
        return sum(abs(a), dim, keepdim)
    if p == math.inf:
        return largest(abs(a), dim, keepdim)
    if p not in (2, "fro"):
        raise ValueError(f"norm: p should be 1, 2, 'fro' or infinity, got {p!r}")
    x = data(a)
    xp, axes = array_module(x), axes_of(dim, x.ndim)
    y = xp.sqrt((x * x).sum(axis=axes, keepdims=True))
    shape = y.shape if keepdim else y.squeeze(axes).shape
    return record(y.reshape(shape), (a,), lambda dy: (x * (dy.reshape(y.shape) / xp.where(y == 0, 1, y)),))


@in_float32
def std(a, dim=None, unbiased=True, keepdim=False, correction=None):
    """The square root of Σ (a - mean)² / (n - correction) over `dim`; the correction is 1, or 0 if not `unbiased`."""
    n = math.prod(a.shape[i] for i in axes_of(dim, a.ndim))
    freedom = n - (int(unbiased) if correction is None else correction)
    return norm(a - mean(a, dim, True), 2, dim, keepdim) * (1 / math.sqrt(freedom) if freedom > 0 else math.nan)


@in_float32
def var(a, dim=None, unbiased=True, keepdim=False, correction=None):
    """The square of `std`."""
    return std(a, dim, unbiased, keepdim, correction) ** 2
