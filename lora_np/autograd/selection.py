"""Which of the numbers: the largest ones and where they stand, those at given places, those that a mask leaves."""

from typing import Any, NamedTuple

from .broadcasting import operand
from .devices import array_module
from .ops import axes_of
from .shape_ops import getitem, where
from .tensor import Tensor, data


class Selected(NamedTuple):
    """Numbers from along an axis, and where they stood in it."""

    values: Any
    indices: Any


def argmax(a, dim=None, keepdim=False):
    """Where the largest number is: along `dim`, or for None in all, counted as if they stood in one row. Integers."""
    return _where_is("argmax", a, dim, keepdim)


def argmin(a, dim=None, keepdim=False):
    """Where the smallest number is; see `argmax`."""
    return _where_is("argmin", a, dim, keepdim)


def _where_is(function, a, dim, keepdim):
    x = data(a)
    if dim is not None:
        axes_of(dim, x.ndim)
    return Tensor(array_module(x).asarray(getattr(x, function)(axis=dim, keepdims=keepdim)))


def largest_along(a, dim, keepdim=False):
    """(values, indices) of the largest number along `dim`. The gradient goes to that one place."""
    return _taken(a, argmax(a, dim, keepdim=True), dim, keepdim)


def smallest_along(a, dim, keepdim=False):
    """(values, indices) of the smallest number along `dim`. The gradient goes to that one place."""
    return _taken(a, argmin(a, dim, keepdim=True), dim, keepdim)


def _taken(a, indices, dim, keepdim):
    values = gather(a, dim, indices)
    if keepdim:
        return Selected(values, indices)
    shape = data(indices).squeeze(dim).shape
    return Selected(values.reshape(shape), indices.reshape(shape))


def argsort(a, dim=-1, descending=False, stable=True):
    """The places of the numbers along `dim`, from the smallest to the largest, or with `descending` the other way."""
    x = data(a)
    xp = array_module(x)
    if not descending:
        return Tensor(xp.argsort(x, axis=dim, kind="stable"))
    backwards = xp.argsort(xp.flip(x, dim), axis=dim, kind="stable")  # so that equal ones keep their order
    return Tensor(x.shape[dim] - 1 - xp.flip(backwards, dim))


def sort(a, dim=-1, descending=False, stable=True):
    """(values, indices) along `dim`, in order."""
    indices = argsort(a, dim, descending)
    return Selected(gather(a, dim, indices), indices)


def topk(a, k, dim=-1, largest=True, sorted=True):  # noqa: A002  torch's name
    """(values, indices) of the k largest (or smallest) numbers along `dim`, in order. ValueError if there are fewer."""
    (axis,) = axes_of(dim, a.ndim)
    if not 0 <= k <= a.shape[axis]:
        raise ValueError(f"topk: k should be 0 to {a.shape[axis]}, the length of axis {dim}, got {k}")
    indices = argsort(a, dim, descending=largest)[(slice(None),) * axis + (slice(k),)]
    return Selected(gather(a, dim, indices), indices)


def gather(a, dim, index):
    """y[i, j, ...] = a[..., index[i, j, ...] in the place of the axis `dim`, ...]; y has the shape of `index`.

    da = zeros, with dy added where y came from.
    """
    x, index = operand(a), operand(index)
    (axis,) = axes_of(dim, x.ndim)
    if index.ndim != x.ndim or any(i != axis and n > x.shape[i] for i, n in enumerate(index.shape)):
        raise ValueError(
            f"gather: an index of shape {index.shape} does not fit a tensor of shape {x.shape} along {dim}"
        )
    grid = list(array_module(x).ogrid[tuple(slice(n) for n in index.shape)])
    return getitem(a, (*grid[:axis], index, *grid[axis + 1 :]))


def masked_fill(a, mask, value):
    """y = `value` (a number) where the mask holds, else a. da = dy where it does not."""
    return where(mask, value, a)
