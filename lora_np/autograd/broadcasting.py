"""The inputs of an operation: what may stand there, whether they fit together, and how a gradient fits back."""

import numpy as np

from .devices import device_of, is_array, on_gpu
from .float_types import is_floating, is_narrow
from .tensor import Tensor


def operand(x):
    """The array in `x`. Python numbers stay numbers: they never change an array's dtype."""
    if isinstance(x, Tensor):
        return x.data
    return x if isinstance(x, (int, float)) or is_array(x) else Tensor(x).data


def operands(a, b, name, floats=False):
    """The arrays of two inputs, once it is known that they broadcast and live in one place.

    NumPy's scalars become Python numbers: a float64 one would turn a float32 array into float64. Integers do not change
    the dtype of floats either, as in torch: beside these they become of that dtype, beside a Python float, and where
    the result is none of integers (`floats`), float32.
    """
    x, y = operand(a), operand(b)
    x = x.item() if isinstance(x, np.generic) else x
    y = y.item() if isinstance(y, np.generic) else y
    if type(x) is not type(y):
        check_same_device(x, y, name)
    try:
        np.broadcast_shapes(np.shape(x), np.shape(y))
    except ValueError:
        raise ValueError(f"{name}: shapes {np.shape(x)} and {np.shape(y)} do not broadcast") from None
    return _as_floats(x, y, floats), _as_floats(y, x, floats)


def _as_floats(x, other, floats):
    """An array of integers or booleans in the dtype that floats beside it have; anything else as it is."""
    if not is_array(x) or x.dtype.kind not in "iub":
        return x
    beside_floats = is_array(other) and is_floating(other.dtype)
    kind = other.dtype if beside_floats else np.float32 if floats or isinstance(other, float) else x.dtype
    return x.astype(kind, copy=False)


def check_same_device(a, b, name):
    """ValueError if one of two arrays is on a GPU and the other is not; `name` is the operation's, for the message."""
    if on_gpu(a) != on_gpu(b) and is_array(a) and is_array(b):
        raise ValueError(f"{name}: one input is on {device_of(a)}, the other on {device_of(b)}; move one with .to()")


def unbroadcast(dy, shape):
    """Sum `dy` over the axes along which an input of this `shape` was repeated."""
    if dy.shape == shape:
        return dy
    extra = dy.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1 and dy.shape[i + extra] != 1)
    if is_narrow(dy):  # in 16 bits sums stand still, see wide.py
        return dy.sum(axis=axes, dtype=np.float32).astype(dy.dtype).reshape(shape)
    return dy.sum(axis=axes).reshape(shape)
