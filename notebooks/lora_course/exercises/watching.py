"""Which arrays does a function compute on its way? Arrays that report every operation on them."""

import numpy as np


class Watched(np.ndarray):
    """An array that notes the shape of every new array that NumPy computes from it."""

    def __new__(cls, array, made):
        watched = np.asarray(array).view(cls)
        watched.made = made
        return watched

    def __array_finalize__(self, parent):
        self.made = getattr(parent, "made", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:  # in place: nothing new is made
            getattr(ufunc, method)(*map(_plain, inputs), out=_plain(out), **options)
            return out[0]
        return self._note(inputs, getattr(ufunc, method)(*map(_plain, inputs), **options))

    def __array_function__(self, function, types, inputs, options):
        results = function(*map(_plain, inputs), **{name: _plain(value) for name, value in options.items()})
        return self._note(inputs, results)

    def dot(self, other, out=None):
        return np.dot(self, other)

    def _note(self, inputs, result):
        """Write down the shape of a result that is larger than what it was made of; the result, watched again."""
        if not isinstance(result, np.ndarray):
            return result
        sizes = {x.shape for x in inputs if isinstance(x, np.ndarray)}
        if result.shape not in sizes and result.shape[::-1] not in sizes:
            self.made.append(result.shape)
        return Watched(result, self.made)


def _plain(value):
    """Without the watching, also inside lists and tuples, as einsum's and concatenate's arguments may be."""
    if isinstance(value, Watched):
        return value.view(np.ndarray)
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def shapes_made(function, *arguments):
    """The shapes of the arrays that a function computes from these arguments, in order.

    A result counts if none of the arrays it was made of has its shape, turned round or not: so W, Wᵀ and W + V do not
    count for a given W, but the product of two thin matrices does.
    """
    made = []
    function(*(Watched(x, made) if isinstance(x, np.ndarray) else x for x in arguments))
    return made


def forms(function, arguments, shape):
    """Does the function compute an array of this shape (rows, columns), in either orientation or as part of a stack?"""
    made = shapes_made(function, *arguments)
    return any(found[-2:] in (shape, shape[::-1]) for found in made)
