"""Comparing Tensors number by number, and logic on the answers. Nothing here has a gradient."""

import operator

import numpy as np

from .broadcasting import operand, operands
from .devices import array_module, is_array
from .tensor import Tensor, data


def _elementwise(operation, name):
    def compare(a, b):
        if not (isinstance(b, (Tensor, int, float, np.generic)) or is_array(b)):
            return NotImplemented  # None, text: Python then says that they differ, or refuses
        x, y = operands(a, b, name)
        return Tensor(operation(x, y))

    compare.__name__, compare.__doc__ = name, f"{name}, number by number: a Tensor of the broadcast shape."
    return compare


eq, ne = _elementwise(operator.eq, "eq"), _elementwise(operator.ne, "ne")
lt, le = _elementwise(operator.lt, "lt"), _elementwise(operator.le, "le")
gt, ge = _elementwise(operator.gt, "gt"), _elementwise(operator.ge, "ge")
logical_and = _elementwise(operator.and_, "and")
logical_or = _elementwise(operator.or_, "or")
logical_xor = _elementwise(operator.xor, "xor")
floor_divide, remainder = _elementwise(operator.floordiv, "floor_divide"), _elementwise(operator.mod, "remainder")


def logical_not(a):
    """Where the booleans are False; of integers, all bits turned."""
    return Tensor(~data(a))


def all(a, dim=None, keepdim=False):
    """Is every number other than zero, over `dim` or in all? A Tensor of booleans."""
    return Tensor(data(a).all(axis=dim, keepdims=keepdim))


def any(a, dim=None, keepdim=False):
    """Is some number other than zero, over `dim` or in all? A Tensor of booleans."""
    return Tensor(data(a).any(axis=dim, keepdims=keepdim))


def isnan(a):
    """Where there is NaN."""
    return Tensor(array_module(data(a)).isnan(data(a)))


def isinf(a):
    """Where there is an infinity."""
    return Tensor(array_module(data(a)).isinf(data(a)))


def isfinite(a):
    """Where there is neither NaN nor an infinity."""
    return Tensor(array_module(data(a)).isfinite(data(a)))


def isclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Where |a - b| ≤ atol + rtol·|b|."""
    x, y = operands(a, b, "isclose")
    return Tensor(array_module(x).isclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan))


def allclose(a, b, rtol=1e-5, atol=1e-8, equal_nan=False):
    """Is |a - b| ≤ atol + rtol·|b| everywhere? True or False."""
    return bool(isclose(a, b, rtol, atol, equal_nan).data.all())


def equal(a, b):
    """Have two tensors one shape, and equal numbers in it? True or False."""
    x, y = operand(a), operand(b)
    return np.shape(x) == np.shape(y) and bool((x == y).all())


def contains(a, number):
    """`number in a`: is some number of the tensor this one?"""
    found = eq(a, number)
    return found is not NotImplemented and bool(found.data.any())
