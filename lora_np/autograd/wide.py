"""Sums of numbers in 16 bits: added up in float32, and rounded once.

Added up in 16 bits, ones stand still at 256 (bfloat16) or 2048 (float16), and float16 overflows at 65504. CuPy's own
reductions add up in float32.
"""

import functools

import numpy as np

from .broadcasting import operand
from .float_types import is_narrow
from .shape_ops import astype


def in_float32(operation):
    """The operation (a, ...) on a Tensor, computed in float32 and rounded once where `a` is in 16 bits, on a CPU."""

    @functools.wraps(operation)
    def compute(a, *arguments, **options):
        x = operand(a)
        if not is_narrow(x):
            return operation(a, *arguments, **options)
        return astype(operation(astype(a, np.float32), *arguments, **options), x.dtype)

    return compute
