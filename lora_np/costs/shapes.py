"""Arrays without numbers: the engine runs on them as on NumPy's, and what is learned is what it would have cost.

A `ShapeArray` has a shape, a dtype and strides, and no memory. Operations give the array that NumPy's would give, and a
view where NumPy makes a view. A `Meter` counts the bytes that they would take while they exist, and the products. So
the memory of a training step, with every temporary array and whatever a backward function keeps, is that of the step
itself, run for its shapes; for a large model that takes some tenths of a second.

    with metered() as meter:
        x = ShapeArray((512, 768)) * 2
    meter.peak

Values do not exist: each number reads as 0, and an array is true. What a step does must not depend on them.
"""

import functools
import math

import numpy as np

from ..autograd.devices import register_arrays
from . import shape_rules
from .meter import current_meter
from .operators import LEAST_REUSED, Operators

FLOAT32 = np.dtype(np.float32)


class _Nowhere:
    """What NumPy takes for the memory of an array of bytes in C order. Nobody reads or writes there."""

    def __init__(self, shape):
        self.one = np.zeros(1, np.uint8)
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        place = {"data": self.one.__array_interface__["data"], "typestr": "|u1", "version": 3}
        self.__array_interface__ = {**place, "shape": shape, "strides": strides}


@functools.lru_cache(maxsize=4096)
def _layout(shape):
    """A NumPy array for its shape and strides alone. All that may be done with it are views.

    It is one of bytes: in 32 bits NumPy refuses more than 2³¹ of them, and GPT-3's table of tokens has 618 million
    numbers.
    """
    return np.asarray(_Nowhere(shape))


class ShapeArray(Operators):
    """An array of which only shape, dtype and strides are known.

    layout   a NumPy array of bytes that has the same shape and, in numbers, strides; it has no memory of its own
    base     the ShapeArray whose memory this one is a view of; None for one that has its own
    meter    what counts it, if it has its own
    """

    __slots__ = ("__weakref__", "base", "dtype", "layout", "meter")

    def __init__(self, shape, dtype=FLOAT32):
        self.layout, self.dtype = _layout(tuple(shape)), np.dtype(dtype)
        self.base, self.meter = None, current_meter()
        self.meter.add(self.nbytes)

    def __del__(self):
        if self.base is None:
            self.meter.add(-self.nbytes)

    def _seen_as(self, layout, dtype=None):
        """A view of this array."""
        new = object.__new__(ShapeArray)
        new.layout, new.dtype = layout, dtype or self.dtype
        new.base, new.meter = self if self.base is None else self.base, self.meter
        return new

    shape = property(lambda self: self.layout.shape)
    ndim = property(lambda self: self.layout.ndim)
    size = property(lambda self: self.layout.size)
    nbytes = property(lambda self: self.layout.size * self.dtype.itemsize)
    itemsize = property(lambda self: self.dtype.itemsize)
    flags = property(lambda self: self.layout.flags)
    T = property(lambda self: self._seen_as(self.layout.T))

    def __len__(self):
        return len(self.layout)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"ShapeArray({self.shape}, {self.dtype})"

    def __bool__(self):
        return True

    def item(self):
        """A number of the dtype's kind."""
        return self.dtype.type(0).item()

    __float__ = __int__ = item

    def reshape(self, *shape):
        """A view where NumPy gives one, else a copy."""
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        layout = shape_rules.reshaped(self.layout, tuple(shape))
        return self.copy().reshape(shape) if layout is None else self._seen_as(layout)

    def swapaxes(self, i, j):
        return self._seen_as(self.layout.swapaxes(i, j))

    def transpose(self, *axes):
        return self._seen_as(self.layout.transpose(*axes))

    def view(self, dtype):
        dtype, length = np.dtype(dtype), self.shape[-1] * self.itemsize
        if dtype.itemsize == self.itemsize:
            return self._seen_as(self.layout, dtype)
        if length % dtype.itemsize or not self.flags.c_contiguous:
            raise ValueError(f"{self} as {dtype}: the bytes of its rows must be whole numbers, in order")
        return self._seen_as(_layout((*self.shape[:-1], length // dtype.itemsize)), dtype)

    def copy(self):
        return ShapeArray(self.shape, self.dtype)

    def astype(self, dtype, copy=True):
        return _alike(self.shape, np.dtype(dtype), [self]) if copy or self.dtype != dtype else self

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or isinstance(part, (int, slice, type(Ellipsis), np.integer)) for part in parts):
            return self._seen_as(self.layout[index])
        before, found, behind = shape_rules.indexed(self.shape, parts)
        new = ShapeArray((*found, *before, *behind), self.dtype)
        ends = range(len(found)), range(len(before), len(before) + len(found))
        return new._seen_as(np.moveaxis(new.layout, *ends)) if before else new

    def __setitem__(self, index, value):
        """Nothing is written."""

    def sum(self, axis=None, dtype=None, keepdims=False):
        return np.add.reduce(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis=None, dtype=None, keepdims=False):
        return np.add.reduce(self, axis=axis, dtype=dtype or np.result_type(self.dtype, 1.0), keepdims=keepdims)

    def max(self, axis=None, keepdims=False):
        return np.maximum.reduce(self, axis=axis, keepdims=keepdims)

    def min(self, axis=None, keepdims=False):
        return np.minimum.reduce(self, axis=axis, keepdims=keepdims)

    def all(self, axis=None, keepdims=False):
        return np.logical_and.reduce(self, axis=axis, keepdims=keepdims)

    def any(self, axis=None, keepdims=False):
        return np.logical_or.reduce(self, axis=axis, keepdims=keepdims)

    def can_hold(self, ufunc, *others):
        """Could NumPy write ufunc(self, *others) to where self is? See `Operators`."""
        if self.base is not None or self.nbytes < LEAST_REUSED:
            return False
        kinds = [np.result_type(x) if np.isscalar(x) else x.dtype for x in others]  # a Python float is a float64 here
        fits = all(np.shape(x) in (self.shape, ()) for x in others) and all(np.can_cast(k, self.dtype) for k in kinds)
        return fits and shape_rules.result_dtype(ufunc, (self, *others)) == self.dtype

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        for x in inputs:
            if type(x) is np.ndarray and x.dtype.kind == "f":
                self.meter.adopt(x)
        if method == "at":
            return None
        if ufunc is np.matmul:
            shape, products = shape_rules.matmul(*(x.shape for x in inputs))
            self.meter.products += products
        else:
            shape = shape_rules.shape_of(method, inputs, options)
        if out is not None:
            return out[0]
        dtype = shape_rules.result_dtype(ufunc, inputs, method, options.get("dtype"))
        elementwise = method == "__call__" and ufunc is not np.matmul
        return _alike(shape, dtype, inputs) if elementwise else ShapeArray(shape, dtype)

    def __array_function__(self, function, types, args, kwargs):
        if function in (np.shape, np.ndim, np.size):
            return getattr(self, function.__name__)
        if function in shape_rules.VIEWS:
            return self._seen_as(shape_rules.VIEWS[function](self.layout, *args[1:], **kwargs))
        if function in shape_rules.FUNCTIONS:
            return ShapeArray(*shape_rules.FUNCTIONS[function](*args, **kwargs))
        return NotImplemented


def _alike(shape, dtype, inputs):
    """A new array, its axes in memory in the order of those of the inputs, as NumPy's elementwise results have them."""
    for x in inputs:
        if isinstance(x, ShapeArray) and x.shape == shape and not x.flags.c_contiguous:
            order = sorted(range(len(shape)), key=lambda i: -x.layout.strides[i])
            new = ShapeArray([shape[i] for i in order], dtype)
            new.layout = new.layout.transpose(sorted(range(len(order)), key=order.__getitem__))
            return new
    return ShapeArray(shape, dtype)


class _Random:
    """Stands for numpy.random and for a generator of it."""

    @staticmethod
    def default_rng(seed=None):
        return _Random()

    def random(self, shape, dtype=np.float64):
        return ShapeArray(shape, dtype)


class _Library:
    """Stands for the module numpy where arrays are made. The rest is NumPy's, which hands on to `ShapeArray`."""

    __name__ = "lora_np.costs.shapes"
    random = _Random

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def some_blocks(slices):
        """Of equal pieces of work one after another (`fused.blocks`), two and the last hold as much as all."""
        return [*slices[:2], *slices[2:][-1:]]

    @staticmethod
    def empty(shape, dtype=np.float64):
        return ShapeArray(shape if isinstance(shape, (tuple, list)) else (shape,), dtype)

    zeros = ones = empty

    @staticmethod
    def empty_like(x, dtype=None):
        return _alike(x.shape, x.dtype if dtype is None else np.dtype(dtype), [x])

    zeros_like = ones_like = empty_like

    @staticmethod
    def asarray(x, dtype=None):
        return x if isinstance(x, ShapeArray) else ShapeArray(np.shape(x), dtype or x.dtype)

    @staticmethod
    def array(x, dtype=None, copy=True, order="K"):
        return ShapeArray(x.shape, dtype or x.dtype)


register_arrays(ShapeArray, _Library())
