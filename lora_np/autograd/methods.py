"""What can be asked of a Tensor: the operations as methods and operators, under torch's names and NumPy's.

Each row says where the operation is. Reductions take torch's `dim=` and `keepdim=` and NumPy's `axis=` and `keepdims=`.
What differs from torch: `.data` and `.grad` are arrays, with NumPy's methods (`p.grad.max()`; `lora_np.norm(p.grad)` is
torch's function of one); `.numpy()` needs no `detach()`; `.shape` is a tuple.
"""

from . import arrangement, comparison, conversion, functional, in_place, measures, ops, selection, shape_ops, softmax
from .devices import on_gpu
from .float_types import is_floating
from .printing import tensor_text
from .tensor import Tensor, data


def reduction(operation):
    """A method (dim, keepdim), also called (axis, keepdims), of an operation (a, axis, keepdims)."""

    def reduce(self, dim=None, keepdim=False, *, axis=None, keepdims=False):
        return operation(self, _one_of(dim, axis), keepdim or keepdims)

    reduce.__name__, reduce.__doc__ = operation.__name__, operation.__doc__
    return reduce


def extreme(operation, along, elementwise):
    """The method `max` or `min`.

    Of all numbers: the one. With `dim`: (values, indices) along it, as torch has it. With `axis`: the values, as NumPy
    has it. With another tensor: the larger (smaller) number in each place.
    """

    def find(self, dim=None, keepdim=False, *, axis=None, keepdims=False):
        if isinstance(dim, Tensor):
            return shape_ops.where(elementwise(self, dim), self, dim)
        if dim is not None:
            return along(self, dim, keepdim or keepdims)
        return operation(self, axis, keepdim or keepdims)

    find.__name__, find.__doc__ = operation.__name__, extreme.__doc__
    return find


def smallest(a, axis=None, keepdims=False):
    """y = the smallest number over `axis`; see `ops.max`."""
    return ops.neg(ops.max(ops.neg(a), axis, keepdims))


smallest.__name__ = "min"


def _one_of(dim, axis):
    if dim is not None and axis is not None:
        raise TypeError("dim and axis are two names of one argument: give one")
    return axis if dim is None else dim


def requires_grad_(self, requires_grad=True):
    """Have `backward` compute the gradient of this leaf, or not; returns the tensor."""
    if requires_grad and not is_floating(self.dtype):
        raise TypeError(f"only floating-point tensors can require a gradient, this one is {self.dtype}")
    if not in_place.is_leaf(self):
        raise RuntimeError("requires_grad is set on leaves: on an operation's result, use detach() first")
    self.requires_grad = bool(requires_grad)
    return self


OPERATORS = {
    "__add__ __radd__ add": ops.add,
    "__mul__ __rmul__ mul multiply": ops.mul,
    "__sub__ sub subtract": ops.sub,
    "__rsub__": lambda a, b: ops.sub(b, a),
    "__truediv__ div divide": ops.div,
    "__rtruediv__": lambda a, b: ops.div(b, a),
    "__matmul__ matmul mm bmm": ops.matmul,
    "__rmatmul__": lambda a, b: ops.matmul(b, a),
    "__pow__ pow": ops.power,
    "__neg__ neg": ops.neg,
    "__abs__ abs": measures.abs,
    "__floordiv__": comparison.floor_divide,
    "__mod__": comparison.remainder,
    "__iadd__": in_place.in_place(ops.add),
    "__isub__": in_place.in_place(ops.sub),
    "__imul__": in_place.in_place(ops.mul),
    "__itruediv__": in_place.in_place(ops.div),
    "add_": in_place.written(ops.add),
    "sub_": in_place.written(ops.sub),
    "mul_": in_place.written(ops.mul),
    "div_": in_place.written(ops.div),
    "clamp_ clip_": in_place.written(measures.clamp),
    "masked_fill_": in_place.written(selection.masked_fill),
    "copy_": in_place.written(lambda a, other: arrangement.expand(conversion.to(other, a), a.shape)),
    "fill_": in_place.written(lambda a, value: value),
    "zero_": in_place.written(lambda a: 0),
    "__getitem__": shape_ops.getitem,
    "__setitem__": in_place.set_item,
    "__eq__ eq": comparison.eq,
    "__ne__ ne": comparison.ne,
    "__lt__ lt": comparison.lt,
    "__le__ le": comparison.le,
    "__gt__ gt": comparison.gt,
    "__ge__ ge": comparison.ge,
    "__and__ __rand__ logical_and": comparison.logical_and,
    "__or__ __ror__ logical_or": comparison.logical_or,
    "__xor__ __rxor__ logical_xor": comparison.logical_xor,
    "__invert__ logical_not": comparison.logical_not,
    "__contains__": comparison.contains,
    "__hash__": object.__hash__,
}
AS_PYTHON = {
    "__float__": conversion.as_kind(float),
    "__int__": conversion.as_kind(int),
    "__bool__": conversion.as_kind(bool),
    "__index__": conversion.index,
    "__format__": conversion.formatted,
    "__array__": conversion.as_numpy,
    "__iter__": arrangement.rows,
    "__repr__": tensor_text,
    "item": conversion.item,
    "tolist": conversion.tolist,
}
MATHEMATICS = {
    "sum": reduction(ops.sum),
    "mean": reduction(ops.mean),
    "max": extreme(ops.max, selection.largest_along, comparison.ge),
    "min": extreme(smallest, selection.smallest_along, comparison.le),
    "amax": reduction(ops.max),
    "amin": reduction(smallest),
    "argmax": reduction(selection.argmax),
    "argmin": reduction(selection.argmin),
    "all": reduction(comparison.all),
    "any": reduction(comparison.any),
    "norm": measures.norm,
    "std": measures.std,
    "var": measures.var,
    "clamp clip": measures.clamp,
    "exp": ops.exp,
    "log": ops.log,
    "tanh": ops.tanh,
    "sqrt": ops.sqrt,
    "relu": functional.relu,
    "softmax": softmax.softmax,
    "log_softmax": softmax.log_softmax,
    "logsumexp": softmax.logsumexp,
    "argsort": selection.argsort,
    "sort": selection.sort,
    "topk": selection.topk,
    "gather": selection.gather,
    "masked_fill": selection.masked_fill,
    "isnan": comparison.isnan,
    "isinf": comparison.isinf,
    "isfinite": comparison.isfinite,
    "isclose": comparison.isclose,
    "allclose": comparison.allclose,
    "equal": comparison.equal,
}
SHAPES = {
    "reshape": shape_ops.reshape,
    "view": arrangement.view,
    "view_as reshape_as": lambda a, other: shape_ops.reshape(a, other.shape),
    "transpose": arrangement.exchange,
    "swapaxes": shape_ops.swapaxes,
    "permute": arrangement.permute,
    "flatten": arrangement.flatten,
    "unsqueeze": arrangement.unsqueeze,
    "squeeze": arrangement.squeeze,
    "expand": arrangement.expand,
    "expand_as": lambda a, other: arrangement.expand(a, other.shape),
    "split": arrangement.split,
    "chunk": arrangement.chunk,
    "clone": arrangement.clone,
    "contiguous": arrangement.contiguous,
    "is_contiguous": arrangement.is_contiguous,
    "t": shape_ops.transpose,
    "T": property(shape_ops.transpose),
    "mT": property(arrangement.mT),
}
KINDS = {
    "astype": shape_ops.astype,
    "to type": conversion.to,
    "type_as": lambda a, other: conversion.to(a, dtype=other.dtype),
    "cpu": conversion.cpu,
    "cuda": conversion.cuda,
    **{name: conversion.caster(name) for name in conversion.DTYPES},
    "bfloat16": lambda a: conversion.to(a, dtype="bfloat16"),
    "dim ndimension": lambda a: a.ndim,
    "numel nelement": lambda a: int(a.size),
    "element_size": lambda a: a.dtype.itemsize,
    "nbytes": property(lambda a: data(a).nbytes),
    "is_cuda": property(lambda a: on_gpu(data(a))),
    "is_floating_point": lambda a: is_floating(a.dtype),
    "is_leaf": property(in_place.is_leaf),
    "requires_grad_": requires_grad_,
}

for table in (OPERATORS, AS_PYTHON, MATHEMATICS, SHAPES, KINDS):
    for names, meaning in table.items():
        for name in names.split():
            setattr(Tensor, name, meaning)
