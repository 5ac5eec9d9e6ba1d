"""What shape and dtype the result of a NumPy function has, from those of its inputs: the rules behind `shapes.py`."""

import functools
import math

import numpy as np


def reshaped(view, shape):
    """view.reshape(shape) if that can be a view of the same memory, else None."""
    try:
        return view.reshape(shape, copy=False)
    except TypeError:  # NumPy 2.0 does not know `copy`
        view = view[...]
    except ValueError:
        if math.prod(shape) not in (view.size, -view.size) and -1 not in shape:
            raise
        return None
    try:
        view.shape = shape
    except AttributeError:
        return None
    return view


def indexed(shape, parts):
    """The shape of x[parts], where some of them are arrays of integers or booleans and all of these stand together.

    In three stretches: before the arrays' axes, these axes, and behind. In memory NumPy puts the arrays' axes first.
    """
    axes, before, after, arrays = list(shape), [], [], []
    for part in _without_ellipsis(parts, len(shape)):
        sliced = after if arrays else before
        if part is None:
            sliced.append(1)
        elif isinstance(part, slice):
            sliced.append(len(range(*part.indices(axes.pop(0)))))
        elif after:
            raise NotImplementedError(f"arrays with slices between them are not followed: {parts}")
        elif _is_mask(part):
            arrays.append((int(np.count_nonzero(part)),))
            del axes[: part.ndim]
        else:
            arrays.append(np.shape(part))
            del axes[0]
    return before, np.broadcast_shapes(*arrays), after + axes


def _is_mask(part):
    return getattr(part, "dtype", None) == np.bool_


def _without_ellipsis(parts, ndim):
    """The parts with as many whole slices in the place of ... as it stands for."""
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), None)
    if at is None:
        return parts
    rest = [part for part in parts if part is not None and part is not Ellipsis]
    used = sum(part.ndim if _is_mask(part) else 1 for part in rest)
    return (*parts[:at], *[slice(None)] * (ndim - used), *parts[at + 1 :])


@functools.lru_cache(maxsize=4096)
def matmul(a, b):
    """(shape of a @ b, how many multiply-adds it takes)."""
    if len(a) == 1 or len(b) == 1:
        raise ValueError(f"products of vectors are not followed: {a} @ {b}")
    if a[-1] != b[-2]:
        raise ValueError(f"matmul: shapes {a} and {b} do not fit")
    shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    return shape, math.prod(shape) * a[-1]


def shape_of(method, inputs, options):
    """The shape of the result of an elementwise function, or of its `reduce` or `reduceat` over the first axis."""
    if method == "__call__":
        shapes = [getattr(x, "shape", ()) for x in inputs]
        return shapes[0] if len(shapes) == 1 or shapes[1] in ((), shapes[0]) else np.broadcast_shapes(*shapes)
    if method == "reduceat":
        return (len(inputs[1]), *inputs[0].shape[1:])
    return reduced(inputs[0].shape, options.get("axis", 0), options.get("keepdims", False))


def reduced(shape, axis, keepdims):
    """The shape without `axis` (None for all, an int or a tuple), or with 1 in its place."""
    axes = range(len(shape)) if axis is None else [i % len(shape) for i in np.atleast_1d(axis)]
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def result_dtype(ufunc, inputs, method="__call__", dtype=None):
    """The dtype of a function's result; Python's numbers take on that of the arrays, as in NumPy."""
    if dtype is not None:
        return np.dtype(dtype)
    if method != "__call__":
        return _of_reduction(ufunc, inputs[0].dtype)
    return _of_call(ufunc, tuple(getattr(x, "dtype", type(x)) for x in inputs))


@functools.cache
def _of_call(ufunc, kinds):
    return ufunc.resolve_dtypes((*kinds, None))[-1]


@functools.cache
def _of_reduction(ufunc, dtype):
    return ufunc.reduce(np.zeros(1, dtype)).dtype


def _concatenate(arrays, axis=0):
    shape = list(arrays[0].shape)
    shape[axis] = sum(x.shape[axis] for x in arrays)
    return shape, np.result_type(*(x.dtype for x in arrays))


def _where(condition, a, b):
    kinds = [getattr(x, "dtype", x) for x in (a, b)]
    return np.broadcast_shapes(*map(np.shape, (condition, a, b))), np.result_type(*kinds)


def _einsum(formula, *arrays):
    before, _, after = formula.partition("->")
    lengths = {}
    for letters, x in zip(before.split(","), arrays, strict=True):
        lengths |= dict(zip(letters, x.shape, strict=True))
    return [lengths[letter] for letter in after], np.result_type(*(x.dtype for x in arrays))


FUNCTIONS = {  # function -> (shape, dtype) of the new array that it gives
    np.concatenate: _concatenate,
    np.where: _where,
    np.einsum: _einsum,
    np.repeat: lambda x, times: ((x.size * times,), x.dtype),
}
VIEWS = {np.moveaxis: np.moveaxis, np.broadcast_to: np.broadcast_to}  # what they give is a view of their first input
