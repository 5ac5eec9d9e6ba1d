"""Arrays without numbers: the engine runs on them as on NumPy's, and what is learned is what it would have cost.

A `ShapeArray` has a shape, a dtype and strides, and no memory. Operations give the array that NumPy's would give, views
where NumPy makes views. The `Meter` knows how many bytes all arrays alive would take, the most that it ever was, and
how many multiplications the matrix products have. So the memory of a training step, with every temporary array and
whatever a backward function keeps, is that of the step itself, run for its shapes: milliseconds for a large model.

    with metered() as meter:
        x = ShapeArray((512, 768)) * 2
    meter.peak

Values do not exist: a ShapeArray is true, and each number in it reads as 0. What a step does must not depend on them.
"""

import functools
import math
import threading
import weakref
from contextlib import contextmanager
from sys import getrefcount

import numpy as np

from ..autograd.backend import register_arrays
from . import shape_rules

FLOAT32 = np.dtype(np.float32)
LEAST_REUSED = 1 << 18  # bytes: the result of a + b goes to where `a` is, if `a` is a temporary array of this size


class Meter:
    """live: bytes of the arrays that exist; peak: the most that was; products: multiply-adds in matrix products."""

    def __init__(self):
        self.live = self.peak = self.products = 0
        self.adopted = {}  # {id of a NumPy array: reference to it}

    def add(self, nbytes):
        self.live += nbytes
        if self.live > self.peak:
            self.peak = self.live

    def adopt(self, array):
        """Count an array of NumPy's own, such as a table of cosines, for as long as it lives."""
        while isinstance(array.base, np.ndarray):
            array = array.base
        if id(array) not in self.adopted:
            self.adopted[id(array)] = weakref.ref(array, functools.partial(self._release, id(array), array.nbytes))
            self.add(array.nbytes)

    def _release(self, key, nbytes, _):
        del self.adopted[key]
        self.live -= nbytes

    def mark(self):
        """From here on: the most that is live above what is live now, and products from 0."""
        self.peak, self.products = self.live, 0
        return self.live


class _Current(threading.local):
    meter = Meter()


_current = _Current()


@contextmanager
def metered():
    """Inside this block, the arrays that this thread makes count in the `Meter` that is given."""
    before, _current.meter = _current.meter, Meter()
    try:
        yield _current.meter
    finally:
        _current.meter = before


class _Pointer:
    """Something that NumPy takes for an array's memory. Nobody reads or writes there."""

    def __init__(self, shape, dtype):
        self.memory = np.zeros(1, dtype)
        strides = tuple(dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
        place = self.memory.__array_interface__["data"]
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": place,
            "strides": strides,
            "version": 3,
        }


@functools.lru_cache(maxsize=4096)
def _layout(shape, dtype):
    """A NumPy array in C order of this shape, for its strides alone: all that is done with it are views."""
    return np.asarray(_Pointer(shape, dtype))


def _binary(ufunc, reuses=False, commutes=False):
    """The methods for `self ∘ other` and `other ∘ self`.

    reuses: NumPy writes a result over a temporary operand of the same shape that nobody else refers to, if it is large;
    over the right one too where the operation `commutes`.
    """

    def method(self, other):
        if getattr(other, "__array_ufunc__", True) is None:
            return NotImplemented
        if reuses:
            if getrefcount(self) == _TEMPORARY[0] and self._takes(ufunc, other):
                return self
            if commutes and getrefcount(other) == _TEMPORARY[1] and isinstance(other, ShapeArray):
                if other._takes(ufunc, self):
                    return other
        return ufunc(self, other)

    def reflected(self, other):
        if getattr(other, "__array_ufunc__", True) is None:
            return NotImplemented
        if commutes and getrefcount(self) == _TEMPORARY[0] and self._takes(ufunc, other):
            return self
        return ufunc(other, self)

    return method, reflected


def _in_place(ufunc):
    def method(self, other):
        return ufunc(self, other, out=(self,))

    return method


def _unary(ufunc):
    def method(self):
        large = self.nbytes >= LEAST_REUSED and self.base is None
        return self if large and getrefcount(self) == _TEMPORARY[0] else ufunc(self)

    return method


class _Probe:
    """How many references Python counts to an operand that nobody else refers to: on its left and its right side."""

    def __add__(self, other):
        return getrefcount(self), getrefcount(other)

    @classmethod
    def count(cls):
        left, right = cls(), cls()
        temporary, named = cls() + cls(), left + right
        return tuple(a if a < b else None for a, b in zip(temporary, named, strict=True))


_TEMPORARY = _Probe.count()  # None where a temporary operand cannot be told from another: then nothing is reused


class ShapeArray:
    """An array of which only shape, dtype and strides are known.

    layout   a NumPy array that has the same, and no memory of its own
    base     the ShapeArray whose memory this one is a view of; None for one that has its own
    """

    __slots__ = ("__weakref__", "base", "layout", "meter")

    def __init__(self, shape, dtype=FLOAT32):
        self.layout, self.base, self.meter = _layout(tuple(shape), np.dtype(dtype)), None, _current.meter
        self.meter.add(self.layout.nbytes)

    def __del__(self):
        if self.base is None:
            self.meter.live -= self.layout.nbytes

    def _seen_as(self, layout):
        """A view of this array."""
        new = object.__new__(ShapeArray)
        new.layout, new.base, new.meter = layout, self if self.base is None else self.base, self.meter
        return new

    shape = property(lambda self: self.layout.shape)
    dtype = property(lambda self: self.layout.dtype)
    ndim = property(lambda self: self.layout.ndim)
    size = property(lambda self: self.layout.size)
    nbytes = property(lambda self: self.layout.nbytes)
    itemsize = property(lambda self: self.layout.itemsize)
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
        return self._seen_as(self.layout.view(dtype))

    def copy(self):
        return ShapeArray(self.shape, self.dtype)

    def astype(self, dtype, copy=True):
        return _alike(self.shape, np.dtype(dtype), [self]) if copy or self.dtype != dtype else self

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or isinstance(part, (int, slice, type(Ellipsis), np.integer)) for part in parts):
            return self._seen_as(self.layout[index])
        return ShapeArray(shape_rules.indexed(self.shape, parts), self.dtype)

    def __setitem__(self, index, value):
        """Writing costs no memory."""

    def sum(self, axis=None, dtype=None, keepdims=False):
        return np.add.reduce(self, axis=axis, dtype=dtype, keepdims=keepdims)

    mean = sum

    def max(self, axis=None, keepdims=False):
        return np.maximum.reduce(self, axis=axis, keepdims=keepdims)

    def min(self, axis=None, keepdims=False):
        return np.minimum.reduce(self, axis=axis, keepdims=keepdims)

    def all(self, axis=None):
        return np.logical_and.reduce(self, axis=axis)

    any = all

    def _takes(self, ufunc, other):
        """Does NumPy write the result of self ∘ other to where self is?"""
        if self.base is not None or self.nbytes < LEAST_REUSED or self.dtype.kind not in "fiu":
            return False
        scalar = isinstance(other, (int, float, np.generic))
        if not scalar and (np.shape(other) != self.shape or not np.can_cast(other.dtype, self.dtype)):
            return False
        return shape_rules.result_dtype(ufunc, (self, other)) == self.dtype

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        for x in inputs:
            if type(x) is np.ndarray and x.dtype.kind == "f":
                self.meter.adopt(x)
        if method == "at":
            return None
        if method == "__call__" and ufunc is np.matmul:
            shape, products = shape_rules.matmul(*(x.shape for x in inputs))
            self.meter.products += products
        else:
            shape = shape_rules.shape_of(ufunc, method, inputs, options)
        if out is not None:
            return out[0]
        dtype = shape_rules.result_dtype(ufunc, inputs, method, options.get("dtype"))
        if method == "__call__" and ufunc is not np.matmul:
            return _alike(shape, dtype, inputs)
        return ShapeArray(shape, dtype)

    def __array_function__(self, function, types, args, kwargs):
        if function in (np.shape, np.ndim, np.size):
            return getattr(self, function.__name__)
        rule = shape_rules.FUNCTIONS.get(function)
        if rule is None:
            return NotImplemented
        result = rule(*args, **kwargs)
        if isinstance(result, np.ndarray):
            return self._seen_as(result)
        return ShapeArray(*result)

    __lt__, __gt__ = _binary(np.less)[0], _binary(np.greater)[0]
    __le__, __ge__ = _binary(np.less_equal)[0], _binary(np.greater_equal)[0]
    __eq__, __ne__, __hash__ = _binary(np.equal)[0], _binary(np.not_equal)[0], None
    __add__, __radd__ = _binary(np.add, reuses=True, commutes=True)
    __mul__, __rmul__ = _binary(np.multiply, reuses=True, commutes=True)
    __sub__, __rsub__ = _binary(np.subtract, reuses=True)
    __truediv__, __rtruediv__ = _binary(np.true_divide, reuses=True)
    __and__, __rand__ = _binary(np.bitwise_and, reuses=True, commutes=True)
    __or__, __ror__ = _binary(np.bitwise_or, reuses=True, commutes=True)
    __lshift__, __rshift__ = _binary(np.left_shift, reuses=True)[0], _binary(np.right_shift, reuses=True)[0]
    __pow__, __matmul__, __rmatmul__ = _binary(np.power)[0], *_binary(np.matmul)
    __neg__, __abs__, __invert__ = _unary(np.negative), _unary(np.absolute), _unary(np.invert)
    __iadd__, __isub__, __imul__ = _in_place(np.add), _in_place(np.subtract), _in_place(np.multiply)
    __itruediv__, __iand__, __ior__ = _in_place(np.true_divide), _in_place(np.bitwise_and), _in_place(np.bitwise_or)


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
    """Stands for numpy.random."""

    @staticmethod
    def default_rng(seed=None):
        return _Random()

    def random(self, shape, dtype=np.float64):
        return ShapeArray(shape, dtype)


class _Library:
    """Stands for the module numpy where arrays are made; for the rest it is NumPy, which hands on to `ShapeArray`."""

    __name__ = "lora_np.costs.shapes"
    random = _Random

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def some_blocks(slices):
        """Of equal pieces of work one after another (`backend.blocks`), two and the last hold as much as all."""
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
        return x if isinstance(x, ShapeArray) else ShapeArray(np.shape(x), x.dtype)

    ascontiguousarray = asarray

    @staticmethod
    def array(x, dtype=None, copy=True, order="K"):
        return ShapeArray(x.shape, dtype or x.dtype)


LIBRARY = _Library()
register_arrays(ShapeArray, LIBRARY)
