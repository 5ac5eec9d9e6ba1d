"""The one table of operations: what each has for which arrays.

Most are pairs of array functions, `<name>_forward` and `<name>_backward`, some are one function, `<name>`. They are
written once in NumPy, which is also what CuPy runs. For some there are CUDA kernels besides, under the same names in
`cuda/`; they take over where all arrays are of the kind that the table says. Nothing of `cuda/` is read before there is
a CuPy array.

A new operation: its pair in a file of `fused/`, a row here, a function on Tensors in `functional.py`.
"""

from typing import NamedTuple

import numpy as np

from . import elementary, fused
from .devices import on_gpu
from .float_types import in_16_bits
from .lazy import Lazy


class Operation(NamedTuple):
    """Where the functions of an operation are.

    numpy   the module that has them for NumPy, and for CuPy where `cuda/` has none
    cuda    arrays -> are these such as the kernels in `cuda/` take? None if there are no kernels
    """

    numpy: object
    cuda: object = None


def any_dtype(arrays):
    """Are all on a GPU? None stands for an input that is left out."""
    return all(x is None or on_gpu(x) for x in arrays)


def float32(arrays):
    """Are all on a GPU, and in float32, which the kernels are written for?"""
    return all(x is None or (on_gpu(x) and x.dtype == np.float32) for x in arrays)


def float32_or_16_bits(arrays):
    """Are all on a GPU, and each in float32, float16 or bfloat16? What comes out has the dtype of the first."""
    return all(x is None or isinstance(x, Lazy) or (on_gpu(x) and _narrow_enough(x.dtype)) for x in arrays)


def in_16_bits_all(arrays):
    """Are all on a GPU, and in float16 or bfloat16?"""
    return all(on_gpu(x) and in_16_bits(x.dtype) for x in arrays)


def _narrow_enough(dtype):
    return dtype == np.float32 or in_16_bits(dtype)


def float32_in_order(arrays):
    """The same, for kernels that are given addresses: the numbers of each array lie one after another."""
    return float32(arrays) and all(x.flags.c_contiguous for x in arrays)


OPERATIONS = {
    # pairs
    "linear": Operation(fused, cuda=float32_or_16_bits),
    "lora_linear": Operation(fused, cuda=float32_or_16_bits),
    "lora_rows": Operation(fused),
    "layer_norm": Operation(fused, cuda=float32_or_16_bits),
    "rms_norm": Operation(fused, cuda=float32_or_16_bits),
    "gelu": Operation(fused, cuda=float32_or_16_bits),
    "silu": Operation(fused),
    "swiglu": Operation(fused, cuda=float32_or_16_bits),
    "relu": Operation(fused),
    "rotary": Operation(fused, cuda=float32_or_16_bits),
    "attention": Operation(fused, cuda=float32_or_16_bits),
    "self_attention": Operation(fused, cuda=float32_or_16_bits),
    "bounded_attention": Operation(fused, cuda=in_16_bits_all),
    "text_attention": Operation(fused, cuda=in_16_bits_all),
    "cross_entropy": Operation(fused, cuda=float32_or_16_bits),
    "linear_cross_entropy": Operation(fused, cuda=float32_or_16_bits),
    "capped_cross_entropy": Operation(fused),
    # single functions
    "add": Operation(elementary, cuda=float32_or_16_bits),
    "matmul": Operation(elementary, cuda=float32_or_16_bits),
    "lora_rows_into": Operation(fused.rows),
    "lora_rows_ready": Operation(None, cuda=float32_or_16_bits),  # this and the next three where NumPy has the above
    "lora_rows_in": Operation(None, cuda=float32_or_16_bits),
    "lora_rows_out": Operation(None, cuda=float32_or_16_bits),
    "lora_rows_swiglu": Operation(None, cuda=float32_or_16_bits),
    "sum_groups": Operation(elementary, cuda=any_dtype),
    "erf": Operation(elementary, cuda=any_dtype),
    "nf4_values": Operation(None, cuda=any_dtype),  # in NumPy by nn/nf4.py itself
    "dropout_mask": Operation(None, cuda=float32_or_16_bits),  # in NumPy by ops.py itself, from NumPy's generator
    # all parameters of an optimizer at once; in NumPy one after another, by the optimizer itself
    "adamw": Operation(None, cuda=float32_in_order),
    "clip": Operation(None, cuda=float32_in_order),
    "add_shares": Operation(None, cuda=float32_in_order),
}


def module_of(name, arrays):
    """The module that has an operation's functions for these arrays; None if there is none."""
    numpy, takes = OPERATIONS[name]
    if takes is None or isinstance(arrays[0], np.ndarray) or not takes(arrays):
        return numpy
    from . import cuda

    return cuda


def pair(name, arrays):
    """(forward, backward) of an operation for these arrays."""
    module = module_of(name, arrays)
    functions = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")
    if module is not fused or 2 not in [None if x is None else x.dtype.itemsize for x in arrays]:
        return functions
    from .fused.stored import narrow_pair  # what NumPy and CuPy compute in 16 bits is slow, and overflows

    return narrow_pair(name, arrays[0], functions)


def implementation(name, arrays):
    """The function of an operation that is one, for these arrays; None where the table has none for them."""
    module = module_of(name, arrays)
    return None if module is None else getattr(module, name)


def add(x, y, into_x=False):
    """x + y, for arrays of one library or Python numbers; with `into_x` written to where x is (x += y)."""
    return implementation("add", (x, y))(x, y, into_x)


def matmul(x, w):
    """numpy.matmul(x, w); on a GPU in the precision that `precision.set_tf32` chose."""
    return implementation("matmul", (x, w))(x, w)


def sum_groups(rows, starts):
    """out[g] = the sum of rows starts[g] up to starts[g + 1]. rows (N, C), starts (G,) increasing -> (G, C)."""
    return implementation("sum_groups", (rows, starts))(rows, starts)


def erf(x):
    """The error function of each number."""
    return implementation("erf", (x,))(x)
