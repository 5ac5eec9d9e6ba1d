"""Types of floating-point numbers: NumPy's, and bfloat16, which the package ml_dtypes adds to it.

A bfloat16 is the upper half of a float32: its range, with 8 bits of precision. Weights are stored in it. A float16 has
11 bits of precision, and nothing above 65504. On a CPU both are turned into float32 where they are used
(`fused/stored.py`), since processors with NumPy have no such product, and sums in 16 bits overflow or stand still; on a
GPU the products themselves are in 16 bits, and add up in float32 (`cuda/`).
"""

import numpy as np

from ..extras import require

NAMES = ("bfloat16", "bf16")
EXTRA = "bf16"  # in pyproject.toml


def bfloat16():
    """The dtype bfloat16. MissingPackageError, with the command that brings it, without ml_dtypes."""
    return np.dtype(require("ml_dtypes", "bfloat16", EXTRA).bfloat16)


def is_bfloat16(dtype):
    """Is this dtype bfloat16?"""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def is_floating(dtype):
    """Is this a type of floating-point numbers, bfloat16 among them?"""
    return dtype.kind == "f" or is_bfloat16(dtype)


def in_16_bits(dtype):
    """Is this float16 or bfloat16?"""
    return dtype.itemsize == 2 and is_floating(dtype)


def finfo(dtype):
    """What NumPy's function of this name says of a type of floats, a dtype or a name, for bfloat16 as well."""
    if str(dtype) in NAMES or (not isinstance(dtype, str) and is_bfloat16(np.dtype(dtype))):
        return require("ml_dtypes", "bfloat16", EXTRA).finfo(bfloat16())
    return np.finfo(dtype)


def is_narrow(array):
    """Is this a NumPy array in float16 or bfloat16?"""
    return isinstance(array, np.ndarray) and in_16_bits(array.dtype)


def widened(array):
    """A NumPy array in bfloat16 as float32; any other array, and what is none, as it is.

    The bits of a bfloat16 and sixteen zeros are the float32: six times as fast as `astype`, which asks for each number.
    """
    if not isinstance(array, np.ndarray) or not is_bfloat16(array.dtype):
        return array
    wide = array.view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
