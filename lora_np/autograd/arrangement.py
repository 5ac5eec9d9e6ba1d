"""Shapes under torch's names. All of it is made of `shape_ops`, and has gradients from there."""

import math

from .broadcasting import operand, unbroadcast
from .devices import array_module
from .ops import axes_of
from .shape_ops import concatenate, reshape, transpose
from .tensor import Tensor, data, record


def exchange(a, *axes):
    """Two axes: exchanged, as torch's transpose does. A tuple, or more: all in that order. None: all reversed."""
    if len(axes) == 2 and a.ndim >= 2 and not isinstance(axes[0], (tuple, list)):
        i, j = axes_of(axes, a.ndim)
        order = list(range(a.ndim))
        order[i], order[j] = j, i
        return transpose(a, order)
    return transpose(a, *axes)


def permute(a, *dims):
    """The axes in the order `dims`, all of them named."""
    return transpose(a, *dims)


def mT(a):
    """The last two axes exchanged."""
    if a.ndim < 2:
        raise ValueError(f"mT exchanges the last two axes, and a tensor of shape {a.shape} has not so many")
    return exchange(a, -2, -1)


def view(a, *shape):
    """As reshape. Sizes only: for another dtype there is `.to(dtype)`."""
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list)):
        raise TypeError(f"view takes the lengths of a shape, got {shape[0]!r}; .to(dtype) changes the dtype")
    return reshape(a, *shape)


def flatten(a, start_dim=0, end_dim=-1):
    """The axes from `start_dim` to `end_dim` as one."""
    if a.ndim == 0:
        return reshape(a, 1)
    start, end = axes_of((start_dim, end_dim), a.ndim)
    return reshape(a, (*a.shape[:start], math.prod(a.shape[start : end + 1]), *a.shape[end + 1 :]))


def unsqueeze(a, dim):
    """A new axis of length 1 in the place `dim`."""
    (place,) = axes_of(dim, a.ndim + 1)
    return reshape(a, (*a.shape[:place], 1, *a.shape[place:]))


def squeeze(a, dim=None):
    """Without the axes of length 1: all of them, or those of `dim` (an int or a tuple); longer ones stay."""
    axes = axes_of(dim, a.ndim)
    return reshape(a, tuple(n for i, n in enumerate(a.shape) if i not in axes or n != 1))


def expand(a, *sizes):
    """Axes of length 1, and new ones in front, repeated to these lengths; -1 keeps one. da = Σ dy over repeats."""
    x, sizes = operand(a), sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    old = (1,) * (len(sizes) - x.ndim) + x.shape
    fits = len(old) == len(sizes) and all(n in (1, size) or size == -1 for n, size in zip(old, sizes, strict=True))
    if not fits:
        raise ValueError(f"expand: only axes of length 1 are repeated, shape {x.shape} cannot become {tuple(sizes)}")
    shape = tuple(n if size == -1 else size for size, n in zip(sizes, old, strict=True))
    return record(array_module(x).broadcast_to(x, shape), (a,), lambda dy: (unbroadcast(dy, x.shape),))


def split(a, sizes, dim=0):
    """Pieces along `dim`, of one length (the last may be shorter) or of these lengths: a tuple of tensors."""
    (axis,) = axes_of(dim, a.ndim)
    total = a.shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - begin) for begin in range(0, total, sizes)] or [0]
    if math.fsum(sizes) != total:
        raise ValueError(f"split: lengths {list(sizes)} should add up to {total}, the length of axis {dim}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    front = (slice(None),) * axis
    return tuple(a[(*front, slice(end - size, end))] for end, size in zip(ends, sizes, strict=True))


def chunk(a, chunks, dim=0):
    """At most so many pieces along `dim`, of one length but for the last."""
    (axis,) = axes_of(dim, a.ndim)
    return split(a, -(-a.shape[axis] // chunks) or 1, dim)


def cat(tensors, dim=0):
    """The tensors one after another along `dim`; their other lengths are equal."""
    tensors = _several(tensors, "cat")
    (axis,) = axes_of(dim, tensors[0].ndim)
    _check_others(tensors, axis, "cat")
    return concatenate(tensors, axis)


def stack(tensors, dim=0):
    """The tensors, all of one shape, side by side along a new axis."""
    tensors = _several(tensors, "stack")
    (axis,) = axes_of(dim, tensors[0].ndim + 1)
    _check_others(tensors, None, "stack")
    return concatenate([unsqueeze(t, axis) for t in tensors], axis)


def _several(tensors, name):
    if isinstance(tensors, Tensor) or not len(tensors):
        raise ValueError(f"{name} takes a list of tensors, at least one, got {'one' if len(tensors) else 'none'}")
    return list(tensors)


def _check_others(tensors, axis, name):
    """ValueError unless the shapes are equal, but for the length of one axis."""
    shapes = [t.shape for t in tensors]
    if len({(len(shape), tuple(n for i, n in enumerate(shape) if i != axis)) for shape in shapes}) > 1:
        where = "" if axis is None else f" but for axis {axis}"
        raise ValueError(f"{name}: shapes should be equal{where}, got {', '.join(map(str, dict.fromkeys(shapes)))}")


def rows(a):
    """Iteration: a[0], a[1] and so on."""
    if not a.shape:
        raise TypeError("a tensor of a single number cannot be iterated over: .item() is the number")
    return (a[i] for i in range(len(a)))


def is_contiguous(a):
    """Do the numbers stand in memory in the order of the axes?"""
    return bool(data(a).flags.c_contiguous)


def contiguous(a):
    """The tensor itself, or if its numbers stand in another order a copy in which they stand in that of the axes."""
    return a if is_contiguous(a) else clone(a)


def clone(a):
    """A copy of the numbers. da = dy."""
    x = data(a)
    return record(array_module(x).array(x, copy=True, order="C"), (a,), lambda dy: (dy,))
