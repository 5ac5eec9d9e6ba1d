"""What torch has as functions and constants of the package, for programs that say `import lora_np as torch`.

A small set: what stands beside models in programs of this field. `lora_np` looks here for names that it does not have
itself; they are in no `__all__`, as `from lora_np import *` would put them in the place of Python's own.
"""

import numpy as np

from . import comparison, creation, gpus, methods, ops, shape_ops
from .arrangement import cat, chunk, flatten, split, squeeze, stack, unsqueeze
from .devices import Device
from .float_types import finfo
from .grad_mode import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from .tensor import Tensor

NO_PICKLES = (
    "torch.save writes pickles, which can run any program when they are read; nothing here does. Instead: "
    "model.save_pretrained(directory) and from_pretrained(directory), or for a state_dict "
    "lora_np.storage.write_safetensors(path, state) and read_safetensors(path)"
)


def save(*args, **kwargs):
    """Refused: see `NO_PICKLES`."""
    raise NotImplementedError(NO_PICKLES)


def load(*args, **kwargs):
    """Refused: see `NO_PICKLES`."""
    raise NotImplementedError(NO_PICKLES)


def is_tensor(value):
    """Is this a Tensor?"""
    return isinstance(value, Tensor)


def numel(a):
    """How many numbers a tensor has."""
    return a.numel()


def of_method(name):
    """The function name(tensor, ...) that calls the method; an array (such as a gradient) is taken as a tensor."""

    def function(a, *args, **kwargs):
        return getattr(a if isinstance(a, Tensor) else Tensor(a), name)(*args, **kwargs)

    function.__name__, function.__doc__ = name, f"tensor.{name}(...), as a function of the tensor."
    return function


METHODS = ("abs", "transpose", "permute", "reshape", "clone", "is_floating_point", *methods.MATHEMATICS)
CREATED = ("tensor", "as_tensor", "from_numpy", "zeros", "ones", "full", "arange", "eye", "rand", "randn", "randint")
CREATED += ("multinomial", "zeros_like", "ones_like", "full_like", "randn_like")
NAMES = {
    **{name: of_method(name) for names in METHODS for name in names.split()},
    **{name: getattr(ops, name) for name in ("add", "sub", "mul", "div", "neg", "matmul")},
    **{name: getattr(creation, name) for name in CREATED},
    **{f.__name__: f for f in (chunk, flatten, split, squeeze, stack, unsqueeze, shape_ops.where)},
    **{f.__name__: f for f in (enable_grad, is_grad_enabled, set_grad_enabled, is_tensor, numel, save, load)},
    **{name: getattr(comparison, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")},
    **{name: np.dtype(dtype) for name, dtype in methods.conversion.DTYPES.items()},
    "pow": ops.power,
    "mm": ops.matmul,
    "bmm": ops.matmul,
    "cat": cat,
    "concat": cat,
    "inference_mode": no_grad,
    "device": Device,
    "cuda": gpus,
    "bfloat16": "bfloat16",  # a name: its dtype is there only where ml_dtypes is
    "inf": np.inf,
    "nan": np.nan,
    "pi": np.pi,
    "finfo": finfo,
    "iinfo": np.iinfo,
}
