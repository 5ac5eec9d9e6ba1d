"""The inputs of an operation: what may stand there, whether they fit together, and how a gradient fits back."""

import numpy as np

from .backend import array_module, device_of, is_array
from .tensor import Tensor, data


def operand(x):
    """The array in `x`. Python numbers stay numbers: they never change an array's dtype."""
    x = data(x)
    return x if is_array(x) or isinstance(x, (int, float)) else Tensor(x).data


def operands(a, b, name):
    """The arrays of two inputs, once it is known that they broadcast and live in one place.

    NumPy's scalars become Python numbers: a float64 one would turn a float32 array into float64.
    """
    a, b = (x.item() if isinstance(x, np.generic) else x for x in (operand(a), operand(b)))
    check_same_device(a, b, name)
    try:
        np.broadcast_shapes(np.shape(a), np.shape(b))
    except ValueError:
        raise ValueError(f"{name}: shapes {np.shape(a)} and {np.shape(b)} do not broadcast") from None
    return a, b


def check_same_device(a, b, name):
    """ValueError if one of two arrays is NumPy's and the other CuPy's; `name` is the operation's, for the message."""
    if is_array(a) and is_array(b) and array_module(a) is not array_module(b):
        raise ValueError(f"{name}: one input is on {device_of(a)}, the other on {device_of(b)}; move one with .to()")


def unbroadcast(dy, shape):
    """Sum `dy` over the axes along which an input of this `shape` was repeated."""
    if dy.shape == shape:
        return dy
    extra = dy.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and dy.shape[i + extra] != 1)
    return dy.sum(axis=axes).reshape(shape)
