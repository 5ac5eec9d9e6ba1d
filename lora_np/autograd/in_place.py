"""Weights that are written to in place, as an optimizer does, between a forward pass and its backward pass."""

from . import changes
from .float_types import is_floating
from .tensor import data, is_grad_enabled


def outdate(leaves):
    """Say that the arrays of these leaves are about to be written to.

    Graphs keep such arrays, not copies of them: their gradients would mix old values and new ones. So from now on
    backward() refuses what was recorded with these leaves before. (As torch's does after an optimizer's step. As there,
    a write to `tensor.data` by hand is seen by nobody. A new array put in the place of `data` harms no graph.)
    """
    for leaf in leaves:
        node, leaf._node = leaf._node, None
        if node is not None:
            node.free()
    changes.note()


def in_place(operation):
    """The method behind `x += y`, for the operation behind `x + y`: the array of x is written to.

    Where a gradient is to come through it, x becomes the result instead, a new Tensor. A leaf that needs a gradient can
    only be changed inside `no_grad`: so `p -= lr * p.grad` changes the weight there.
    """

    def change(a, b):
        if _is_recorded(a, b):
            _refuse_leaf(a, "x += y, x -= y and the like")
            return operation(a, b)
        return write(a, operation(a, b))

    return change


def written(operation):
    """The method behind `x.add_(y)`, for the operation behind `x.add(y)`: the array of x is written to. Returns x."""

    def change(a, *args, **kwargs):
        if _is_recorded(a, *args):
            raise RuntimeError(
                "methods that end in _ write into a tensor, and pass no gradient on: do it inside `with no_grad():`, "
                "or use the operation without the _"
            )
        return write(a, operation(a, *args, **kwargs))

    return change


def write(a, values):
    """Put the values into the array of `a`. ValueError or TypeError where they do not fit its shape or kind."""
    array = data(values)
    if getattr(array, "shape", ()) not in (a.shape, ()):
        raise ValueError(f"values of shape {array.shape} cannot be written into a tensor of shape {a.shape}")
    if is_floating(getattr(array, "dtype", a.dtype)) and not is_floating(a.dtype):
        raise TypeError(f"{array.dtype} numbers cannot be written into a tensor of {a.dtype}: use .float() first")
    outdate([a] if is_leaf(a) else [])
    a.data[...] = array
    changes.note()  # what another thread has made of numbers half written is not kept
    return a


def set_item(a, index, value):
    """a[index] = value, written into the array. Nothing of it is recorded: no gradient goes through it."""
    if _is_recorded(a, value):
        _refuse_leaf(a, "x[i] = y")
        raise RuntimeError("x[i] = y cannot pass a gradient on: use where(mask, y, x) or concatenate, or no_grad()")
    outdate([a] if is_leaf(a) else [])
    a.data[tuple(map(data, index)) if isinstance(index, tuple) else data(index)] = data(value)
    changes.note()


def _is_recorded(*values):
    return is_grad_enabled() and any(getattr(value, "requires_grad", False) for value in values)


def is_leaf(a):
    """Is the tensor no operation's result, or one that needs no gradient?"""
    return a._node is None or a._node.leaf is not None


def _refuse_leaf(a, what):
    if a.requires_grad and is_leaf(a):
        raise RuntimeError(f"{what} would change a tensor that requires a gradient: do it inside `with no_grad():`")
