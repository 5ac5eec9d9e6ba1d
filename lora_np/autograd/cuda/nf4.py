"""Weights in 4 bits, turned back in one pass; the format, and the same in NumPy, are in `nn/nf4.py`."""

import cupy
import numpy as np

from .launch import by_elements, long


def nf4_values(codes, absmax, scales, mean, values, dtype=np.float32):
    """absmax · values[code] for codes (blocks, block size / 2) -> (blocks, block size) in `dtype`.

    absmax (blocks,) float32; or int8, and then with scales (a float32 for each 256) and mean (1,).
    """
    out = cupy.empty((len(codes), 2 * codes.shape[1]), dtype)
    packed = codes.shape[1] % 4 == 0 and codes.data.ptr % 16 == 0
    sizes = long(codes.size), codes.shape[1], packed
    by_elements("nf4_numbers", -(-codes.size // 4), out, codes, absmax, scales, mean, values, *sizes)
    return out
