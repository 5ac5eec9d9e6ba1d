"""The arrays that new layers begin with. Inside a block, they can be left unfilled, or take no memory at all."""

import math
import sys
import threading

import numpy as np

from ..autograd.random import generator
from ..autograd.temporarily import temporarily

LARGEST = min(2**60, sys.maxsize // 4)  # numbers in one array; 32 bits, as in a browser, have less


def _repeated(value, shape):
    """One number in the shape of a weight."""
    if math.prod(np.atleast_1d(shape).tolist()) > LARGEST:
        raise ValueError(f"a weight of shape {shape} is larger than any memory")
    return np.broadcast_to(np.float32(value), shape)


class _Initialisation(threading.local):
    kind = "drawn"  # or "uninitialized" or "weightless"
    array = staticmethod(_repeated)  # what gives a weight where they are weightless


_initialisation = _Initialisation()


def uninitialized():
    """Inside this block, new layers are not filled: they hold whatever was in memory, until they are loaded.

    Drawing 135 million numbers takes a second, and touches memory that loading writes to anyway.
    """
    return temporarily(_initialisation, kind="uninitialized")


def weightless(array=_repeated):
    """Inside this block, the weights of new layers take no memory: each is one number, repeated, and cannot be written.

    A model made so has all names and shapes, and costs next to nothing: Llama-3-8B is there in 20 ms. ValueError for a
    weight that no memory could hold: a file may ask for that. Another `array(value, shape)` may make the weights.
    """
    return temporarily(_initialisation, kind="weightless", array=array)


def is_weightless():
    """Is this inside such a block?"""
    return _initialisation.kind == "weightless"


def _undrawn(shape):
    return _initialisation.array(0, shape) if is_weightless() else np.empty(shape, np.float32)


def normal(shape, std, mean=0.0, zero_row=None):
    """A float32 array of independent normal numbers from the seeded generator (`manual_seed`), but for a row of 0."""
    if _initialisation.kind != "drawn":
        return _undrawn(shape)
    found = (generator().standard_normal(shape, dtype=np.float32) * np.float32(std)) + np.float32(mean)
    if zero_row is not None:
        found[zero_row] = 0
    return found


def row_from_front(padding_idx, rows):
    """padding_idx as a number from 0, if it is one from behind as -1. ValueError if there is no such row."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx={padding_idx} is no row of an embedding with {rows}")
    return padding_idx % rows


def uniform(shape, bound):
    """A float32 array of independent numbers, uniform in [-bound, bound), from the seeded generator."""
    if _initialisation.kind != "drawn":
        return _undrawn(shape)
    return (generator().random(shape, dtype=np.float32) * 2 - 1) * np.float32(bound)


def zeros(shape):
    """A float32 array of zeros."""
    return filled(shape, 0.0)


def filled(shape, value):
    """A float32 array that holds one value everywhere."""
    if is_weightless():
        return _initialisation.array(value, shape)
    return np.full(shape, value, np.float32)
