"""Tensor: an array that remembers how it was made. Node: that memory. `backward`: walking it in reverse.

The whole engine is in this file. An operation (`ops.py`, `functional.py`) computes an array, then calls
`record(array, parents, backward)`, where `backward(dy)` returns one gradient for each parent. `Tensor.backward`
visits the operations in reverse order of creation and hands each gradient on: reverse-mode differentiation,
as in Griewank and Walther, "Evaluating Derivatives", chapter 3.
"""

import itertools
import threading
import weakref
from contextlib import contextmanager

import numpy as np

from . import backend, kernels

_numbers = itertools.count()


class Node:
    """One entry of the graph: what an operation's result came from. It holds links only, never activations.

    number    creation order; a result always has a larger number than what it was made from
    parents   a Node for each input that needs a gradient, None for each that does not
    backward  dy -> a tuple of gradients, one per parent (None where the parent is None)
    leaf      for a leaf only: a weak reference to the Tensor whose `.grad` receives the gradient
    """

    __slots__ = ("__weakref__", "backward", "leaf", "number", "parents")

    def __init__(self, parents=(), backward=None, leaf=None):
        self.number, self.parents, self.backward, self.leaf = next(_numbers), parents, backward, leaf

    def free(self):
        """Forget the way back. What the backward function had saved can be collected."""
        self.parents, self.backward = None, None

    @property
    def freed(self):
        return self.parents is None


class _GradMode(threading.local):
    enabled = True


_grad_mode = _GradMode()


def is_grad_enabled():
    """Are operations of this thread being recorded?"""
    return _grad_mode.enabled


@contextmanager
def no_grad():
    """Inside this block nothing is recorded: results need no gradient and nothing is kept for one."""
    before, _grad_mode.enabled = _grad_mode.enabled, False
    try:
        yield
    finally:
        _grad_mode.enabled = before


class Tensor:
    """A NumPy or CuPy array, with a gradient if asked for.

    data           the array. Python lists and scalars become float32; float16 and float64 arrays stay as they
                   are; integers stay integers and can not need a gradient.
    requires_grad  should `backward` compute the gradient with respect to this tensor?
    grad           an array of the same shape once `backward` has run, else None. It adds up over calls.
    """

    __slots__ = ("__weakref__", "_node", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # so that `numpy_array + tensor` calls Tensor.__radd__

    def __init__(self, data, requires_grad=False):
        if isinstance(data, Tensor):
            data = data.data
        if not backend.is_array(data):
            data = np.asarray(data)
            data = data.astype(np.float32) if data.dtype == np.float64 else data
        elif isinstance(data, np.generic):
            data = np.asarray(data)
        if data.dtype.kind not in "fiub" or data.dtype.itemsize > 8:
            raise TypeError(f"a Tensor holds floats, integers or booleans, not {data.dtype}")
        if requires_grad and not backend.is_float(data):
            raise TypeError(f"only floating-point tensors can require a gradient, this one is {data.dtype}")
        self.data, self.requires_grad, self.grad, self._node = data, requires_grad, None, None

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)
    device = property(lambda self: backend.device_of(self.data))

    def __len__(self):
        return len(self.data)

    def __repr__(self):
        tail = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({backend.to_numpy(self.data)!r}{tail})"

    def numpy(self):
        """The values as a NumPy array (the same memory when it is one already)."""
        return backend.to_numpy(self.data)

    def item(self):
        """The one value as a Python number."""
        return self.data.item()

    def detach(self):
        """The same array with no memory of how it was made."""
        return Tensor(self.data)

    def node(self):
        """The graph entry of this tensor, made at first use for a leaf."""
        if self._node is None:
            self._node = Node(leaf=weakref.ref(self))
        return self._node

    def backward(self, grad=None):
        """Add d(self)/d(leaf), times `grad`, to the `.grad` of every leaf that requires it, and free the graph.

        grad: an array of this tensor's shape; may be left out for a single value, where it is 1.
        A second call on the same graph is an error: run the forward pass again. There is no double backward.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that does not require a gradient: nothing to compute")
        if grad is None:
            if self.size != 1:
                raise RuntimeError(f"backward() without a gradient needs a single value, not shape {self.shape}")
            grad = backend.array_module(self.data).ones_like(self.data)
        grad = grad.data if isinstance(grad, Tensor) else grad
        if getattr(grad, "shape", None) != self.shape:
            given = getattr(grad, "shape", type(grad).__name__)
            raise ValueError(f"the gradient given to backward() must be an array of shape {self.shape}, got {given}")
        _run_backward(self.node(), grad.astype(self.dtype, copy=False), _add_to_leaf)


def collect_gradients(tensor, grad):
    """{id of leaf: gradient} of `tensor` times the array `grad`; no `.grad` changes. The graph is freed."""
    found = {}

    def keep(leaf, d, owned):
        found[id(leaf)] = d

    _run_backward(tensor.node(), grad, keep)
    return found


def _run_backward(root, grad, deliver):
    """Visit every node that `root` depends on, newest first, and hand each gradient to its parents.

    A leaf's gradient goes to `deliver(leaf, gradient, owned)`.
    """
    grads = _Gradients()
    grads.add(root, grad, owned=False)
    for node in sorted(_reachable(root), key=lambda node: node.number, reverse=True):
        dy, owned = grads.pop(node)
        if node.leaf is not None:
            deliver(node.leaf(), dy, owned)
            continue
        parents, gradients = node.parents, node.backward(dy)
        node.free()
        for parent, d in zip(parents, gradients, strict=True):
            if parent is not None:
                grads.add(parent, d, owned=_is_fresh(d, dy, gradients))
        del dy, gradients, d  # or the last ones would live on through the next operation


def _reachable(root):
    """All nodes that `root` depends on, itself included. A loop, not recursion: chains may be very long."""
    found, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node.freed:
            raise RuntimeError(
                "this graph was already used by backward() and has been freed: run the forward pass again"
            )
        for parent in node.parents:
            if parent is not None and parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


def _is_fresh(d, dy, gradients):
    """Did the operation make the array `d` anew, for one parent only? Then it may be added to in place.

    An operation may pass `dy` itself on (as add does, to both its parents), a view of it, or one array twice: then the
    memory is not its own. So it must not return an array that it keeps. Nor does a number that was only repeated
    (broadcast) have a place for each element.
    """
    if not d.flags.c_contiguous:
        return False
    memory = _owner(d)
    shared = sum(other is not None and _owner(other) is memory for other in gradients) > 1
    return memory is not _owner(dy) and not shared


def _owner(array):
    """The array whose memory this one is a view of, or itself."""
    return array if array.base is None else array.base


class _Gradients:
    """The gradients on their way, and which of those buffers belong to this walk alone."""

    def __init__(self):
        self.arrays, self.owned = {}, set()

    def add(self, node, d, owned):
        """Add the gradient `d` to what `node` has so far: in place only into an array that is owned."""
        if node not in self.arrays:
            self.arrays[node] = d
        elif node in self.owned:
            self.arrays[node] = kernels.add(self.arrays[node], d, into_x=True)
        elif owned:
            self.arrays[node] = kernels.add(d, self.arrays[node], into_x=True)
        else:
            self.arrays[node] = kernels.add(self.arrays[node], d)
            owned = True
        if owned:
            self.owned.add(node)

    def pop(self, node):
        return self.arrays.pop(node), node in self.owned


def _add_to_leaf(leaf, d, owned):
    """Add `d` to `leaf.grad`, which always has memory of its own."""
    if leaf is None:  # the tensor itself is gone: nobody can ask for its gradient
        return
    if leaf.grad is None:
        xp = backend.array_module(leaf.data)
        leaf.grad = xp.asarray(d) if owned else xp.array(d, copy=True, order="C")
    else:
        leaf.grad += d


def data(x):
    """The array inside a Tensor; arrays, Python numbers and None pass through."""
    return x.data if isinstance(x, Tensor) else x


def needs_grad(*inputs):
    """For each input: does anybody want its gradient? One bool for each, all False inside `no_grad`."""
    enabled = _grad_mode.enabled
    return tuple(enabled and isinstance(x, Tensor) and x.requires_grad for x in inputs)


def record(array, inputs, backward):
    """The Tensor that holds `array`; it remembers `backward` and its inputs if any of them needs a gradient."""
    out = Tensor(array)
    needs = needs_grad(*inputs)
    if any(needs):
        parents = tuple(x.node() if need else None for x, need in zip(inputs, needs, strict=True))
        out.requires_grad, out._node = True, Node(parents, backward)
    return out
