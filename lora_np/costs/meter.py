"""Counting what exists: the bytes of arrays while they live, and the products that are computed."""

import functools
import threading
import weakref
from contextlib import contextmanager

import numpy as np

from ..autograd.temporarily import temporarily


class Meter:
    """live: bytes of the arrays that exist; peak: the most that was; products: multiply-adds in matrix products."""

    def __init__(self):
        self.live = self.peak = self.products = 0
        self.adopted = {}  # {id of a NumPy array: weak reference to it}

    def add(self, nbytes):
        """So many bytes more exist (fewer, if negative)."""
        self.live += nbytes
        if self.live > self.peak:
            self.peak = self.live

    def adopt(self, array):
        """Count an array of NumPy's own, such as a table of cosines, for as long as it lives."""
        while isinstance(array.base, np.ndarray):
            array = array.base
        if id(array) not in self.adopted:
            release = functools.partial(self._release, id(array), array.nbytes)
            self.adopted[id(array)] = weakref.ref(array, release)
            self.add(array.nbytes)

    def _release(self, key, nbytes, reference):
        del self.adopted[key]
        self.live -= nbytes

    def mark(self):
        """Forget the peak and the products so far; returns what is live now."""
        self.peak, self.products = self.live, 0
        return self.live


class _Current(threading.local):
    def __init__(self):
        self.meter = Meter()


_current = _Current()


def current_meter():
    """The meter that counts the arrays that this thread makes."""
    return _current.meter


@contextmanager
def metered():
    """Inside this block, the arrays that this thread makes count in the `Meter` that is given."""
    with temporarily(_current, meter=Meter()):
        yield _current.meter
