"""Small operations on arrays, in NumPy: those of the table in `dispatch.py` that are one function each.

`cuda/elementary.py` has what CuPy does not offer, or not as fast.
"""

import numpy as np

from ..extras import require
from .float_types import is_narrow


def add(x, y, into_x=False):
    """x + y, for arrays of one library or Python numbers; with `into_x` written to where x is (x += y)."""
    if not into_x:
        return x + y
    x += y
    return x


def matmul(x, w):
    """The matrix product over the last two axes."""
    return x @ w


def sum_groups(rows, starts):
    """out[g] = the sum of rows starts[g] up to starts[g + 1]. rows (N, C), starts (G,) increasing -> (G, C)."""
    if is_narrow(rows):  # in 16 bits sums stand still, see wide.py
        return np.add.reduceat(rows, starts, dtype=np.float32).astype(rows.dtype)
    return np.add.reduceat(rows, starts)


def erf(x):
    """The error function, 2/√π times the integral of e^(-t²) from 0 to x. SciPy's."""
    return require("scipy.special", "exact GELU", "scipy").erf(x)
