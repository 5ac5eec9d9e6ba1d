"""Tensor: an array that remembers how it was made. Node: that memory. `backward`: walking it in reverse.

The whole engine is in this file. An operation (`ops.py`, `functional.py`) computes an array, then calls
`record(array, inputs, backward)`, where `backward(dy)` returns one gradient for each input. `Tensor.backward`
visits the operations in reverse order of creation and hands each gradient on: reverse-mode differentiation,
as in Griewank and Walther, "Evaluating Derivatives", chapter 3. How gradients add up in as little memory as
possible is a matter of its own: `accumulate.py`.
"""

import itertools
import weakref
from operator import attrgetter

from . import locks
from .accumulate import Gradients, add_to_leaf
from .devices import LIBRARIES, array_module, as_array, device_of, is_float, to_numpy
from .grad_mode import grad_mode, is_grad_enabled, no_grad
from .size import Size
from .walk_options import gradient_of

__all__ = ["Node", "Tensor", "collect_gradients", "data", "is_grad_enabled", "needs_grad", "no_grad", "record"]

_numbers = itertools.count()


class Node:
    """One entry of the graph: links to where an operation's result came from. Arrays are kept by `backward`.

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


class Tensor:
    """A NumPy or CuPy array, with a gradient if asked for. Operators and most methods: `methods.py`.

    data           the array. Python lists and scalars become float32; float16 and float64 arrays stay as they
                   are; integers stay integers and cannot need a gradient.
    requires_grad  should `backward` compute the gradient with respect to this tensor?
    grad           an array of the same shape once `backward` has run, else None. It adds up over calls.
    """

    __slots__ = ("__weakref__", "_node", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # so that `numpy_array + tensor` calls Tensor.__radd__

    def __init__(self, data, requires_grad=False):
        if type(data) not in LIBRARIES:
            data = data.data if isinstance(data, Tensor) else as_array(data)
        if (data.dtype.kind not in "fiub" and not is_float(data)) or data.dtype.itemsize > 8:
            raise TypeError(f"a Tensor holds floats, integers or booleans, not {data.dtype}")
        if requires_grad and not is_float(data):
            raise TypeError(f"only floating-point tensors can require a gradient, this one is {data.dtype}")
        self.data, self.requires_grad, self.grad, self._node = data, requires_grad, None, None

    shape = property(attrgetter("data.shape"))
    ndim = property(attrgetter("data.ndim"))
    size = property(lambda self: Size(self.data))  # a number, and callable
    dtype = property(attrgetter("data.dtype"))
    device = property(lambda self: device_of(self.data))

    def __len__(self):
        return len(self.data)

    def numpy(self):
        """The values as a NumPy array (the same memory when it is one already)."""
        return to_numpy(self.data)

    def detach(self):
        """The same array with no memory of how it was made."""
        return Tensor(self.data)

    def node(self):
        """The graph entry of this tensor, made at first use for a leaf."""
        with locks.leaves:  # two threads that use one leaf for the first time must not make two
            self._node = self._node or Node(leaf=weakref.ref(self))
            return self._node

    def __getstate__(self):
        """What a copy has, pickled or not: the array and the gradient, and no memory of how they were made."""
        return None, {"data": self.data, "requires_grad": self.requires_grad, "grad": self.grad, "_node": None}

    def backward(self, grad=None, **options):
        """Add d(self)/d(leaf), times `grad`, to the `.grad` of every leaf that requires it, and free the graph.

        grad: an array of this tensor's shape; may be left out for a single value, where it is 1. (options: torch's.)
        A second call on the same graph is an error: run the forward pass again. There is no double backward.
        """
        grad = gradient_of(grad, **options)
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that does not require a gradient: nothing to compute")
        if grad is None:
            if self.size != 1:
                raise RuntimeError(f"backward() without a gradient needs a single value, not shape {self.shape}")
            grad = array_module(self.data).ones_like(self.data)
        grad = grad.data if isinstance(grad, Tensor) else grad
        if getattr(grad, "shape", None) != self.shape:
            given = getattr(grad, "shape", type(grad).__name__)
            raise ValueError(f"the gradient given to backward() must be an array of shape {self.shape}, got {given}")
        _walk_back(self.node(), grad.astype(self.dtype, copy=False), add_to_leaf)


def _walk_back(root, grad, deliver):
    """Visit every node that `root` depends on, newest first, and hand each gradient on to the node's parents.

    A leaf's gradient goes to `deliver(leaf, gradient)`; the leaf may be gone by then, and is None.
    """
    grads = Gradients({root: grad})
    for node in sorted(reachable(root), key=attrgetter("number"), reverse=True):
        if node not in grads:  # no operation had a gradient for it
            continue
        if node.leaf is not None:
            deliver(node.leaf(), grads.pop_own(node))  # its own: no other tensor's gradient is the same array
            continue
        dy = grads.pop(node)
        gradients = list(node.backward(dy))
        grads.add(node.parents, gradients)
        node.free()
        del dy, gradients  # or they would live on through the next operation


def reachable(root):
    """All nodes that `root` depends on, itself included. A loop, not recursion: chains may be very long."""
    found, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if node.freed:
            why = "used weights that have changed" if node.leaf else "was already used by backward() and is freed"
            raise RuntimeError(f"this graph {why}: run the forward pass again")
        for parent in node.parents:
            if parent is not None and parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


def collect_gradients(tensor, grad):
    """{id of leaf: gradient} of `tensor` times the array `grad`; no `.grad` changes. The graph is freed."""
    found = {}
    _walk_back(tensor.node(), grad, lambda leaf, d: found.update({id(leaf): d}))
    return found


def data(x):
    """The array inside a Tensor; arrays, Python numbers and None pass through."""
    return x.data if isinstance(x, Tensor) else x


def needs_grad(*inputs):
    """For each input: does anybody want its gradient? One bool for each, all False inside `no_grad`."""
    enabled = grad_mode.enabled
    return tuple([enabled and isinstance(x, Tensor) and x.requires_grad for x in inputs])


def record(array, inputs, backward):
    """The Tensor that holds `array`; it remembers `backward` and its inputs if any of them needs a gradient.

    This is how an operation is written: compute the array, then record how its gradient goes back.

        def scale(a, b):                               # y = a b
            need_a, need_b = needs_grad(a, b)
            x, w = data(a), data(b)
            saved_x, saved_w = x if need_b else None, w if need_a else None

            def backward(dy):                          # da = dy b, db = dy a
                return dy * saved_w if need_a else None, dy * saved_x if need_b else None

            return record(x * w, (a, b), backward)

    `backward(dy)` returns one array for each input, of the input's shape and dtype, or None. It must not change `dy`.
    It keeps arrays, never a Tensor, and only those that a gradient needs. What it returns may be `dy` itself, a view of
    it, or one array twice, but not an array that it keeps: what is returned is the walk's from then on, and other
    gradients are added to it in place. (Should it keep one all the same, `accumulate.py` sees that, and copies it.)
    """
    out = Tensor(array)
    if grad_mode.enabled:
        parents = tuple([x._node or x.node() if isinstance(x, Tensor) and x.requires_grad else None for x in inputs])
        if any(parents):
            out.requires_grad, out._node = True, Node(parents, backward)
    elif grad_mode.noted is not None:
        grad_mode.noted.update({id(x): x for x in inputs if isinstance(x, Tensor) and x.requires_grad})
    return out
