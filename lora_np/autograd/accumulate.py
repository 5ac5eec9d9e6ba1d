"""Gradients that add up: which of their buffers may be written to, and which belong to somebody else.

A tensor that is used twice gets the sum of two gradients. Adding in place saves an array as large as the tensor, but is
right only if nobody else has that array: an operation may have passed on the gradient that it was given (`add` does, to
both its parents), a view of it, one array twice, or an array that it keeps for itself. Nothing has to be told to find
out: Python counts how often each object is held.
"""

import operator
from sys import getrefcount

from . import dispatch, locks
from .devices import array_module

ONCE = 2  # what getrefcount says of an array that one container holds: it counts its own argument too


class Gradients(dict):
    """{node: the sum of the gradients that have come for it so far}."""

    def add(self, nodes, gradients):
        """Add one gradient to each node (None: there is no node, or no gradient). The list `gradients` is emptied."""
        if len(gradients) != len(nodes):
            raise ValueError(f"an operation of {len(nodes)} inputs returned {len(gradients)} gradients in its backward")
        for i, node in enumerate(nodes):
            if node is None or gradients[i] is None:
                continue
            if node not in self:
                self[node] = gradients[i]
            elif held_once(self, node):
                self[node] = dispatch.add(self[node], gradients[i], into_x=True)
            elif held_once(gradients, i):
                self[node] = dispatch.add(gradients[i], self[node], into_x=True)
            else:
                self[node] = dispatch.add(self[node], gradients[i])
            gradients[i] = None  # or it would still be held when the next one is looked at

    def pop_own(self, node):
        """Take out the gradient of a node, in memory that nobody else has: copied if need be."""
        xp = array_module(self[node])
        if not held_once(self, node):
            self[node] = xp.array(self[node], copy=True, order="C")
        return xp.asarray(self.pop(node))


def add_to_leaf(leaf, d):
    """Add `d`, in the leaf's dtype, to `leaf.grad`. A leaf that is gone needs no gradient: nobody can ask for it.

    Several threads may go back to one leaf at once: no part of their gradients is lost.
    """
    if leaf is not None:
        d = d.astype(leaf.dtype, copy=False)  # beside wider numbers it came in their dtype
        with locks.leaves:
            leaf.grad = d if leaf.grad is None else operator.iadd(leaf.grad, d)


def held_once(container, key):
    """Does nobody but this container hold the array container[key], or its memory? Then it may be written to.

    No variable here may hold it either. A number that was only repeated (broadcast) has no place for each element.
    """
    if getrefcount(container[key]) > ONCE or not _has_every_element(container[key].flags):
        return False
    if container[key].base is None:
        return True
    return _is_plain(container[key].base, container[key]) and getrefcount(container[key].base) == ONCE


def _has_every_element(flags):
    return flags.c_contiguous and getattr(flags, "writeable", True)  # CuPy's arrays can always be written to


def _is_plain(base, view):
    """Is a view's memory that of an array, and not of a file or of another object that gave it?"""
    return type(base) is type(view) and base.base is None
