"""Weights that are written to in place, as an optimizer does, between a forward pass and its backward pass."""

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


def in_place(operation):
    """The method behind `x += y`, for the operation behind `x + y`.

    While operations are recorded, x becomes the result, a new Tensor, and no array is written to. Inside `no_grad` the
    array of x is: so `p -= lr * p.grad` changes the weight. A leaf that needs a gradient can only be changed there.
    """

    def change(a, b):
        if is_grad_enabled():
            _refuse_leaf(a, "x += y, x -= y and the like")
            return operation(a, b)
        outdate([a] if is_leaf(a) else [])
        a.data[...] = data(operation(a, b))
        return a

    return change


def set_item(a, index, value):
    """a[index] = value, written into the array. Nothing of it is recorded: no gradient goes through it."""
    if is_grad_enabled():
        _refuse_leaf(a, "x[i] = y")
        if a.requires_grad or getattr(value, "requires_grad", False):
            raise RuntimeError("x[i] = y cannot pass a gradient on: use where(mask, y, x) or concatenate, or no_grad()")
    outdate([a] if is_leaf(a) else [])
    a.data[tuple(map(data, index)) if isinstance(index, tuple) else data(index)] = data(value)


def is_leaf(a):
    """Is the tensor no operation's result, or one that needs no gradient?"""
    return a._node is None or a._node.leaf is not None


def _refuse_leaf(a, what):
    if a.requires_grad and is_leaf(a):
        raise RuntimeError(f"{what} would change a tensor that requires a gradient: do it inside `with no_grad():`")
