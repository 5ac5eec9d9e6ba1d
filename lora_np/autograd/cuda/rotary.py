"""Rotary positions in CUDA; derived in `fused/rotary.py`, whose functions do where a part of each head turns.

In 16 bits the result is (B, H, T, D) as a view: in memory heads stay where they were, side by side in each position, as
cuDNN's attention (`cudnn.py`) reads them.
"""

import cupy
import numpy as np

from ..fused import rotary as plain
from .launch import by_rows, in_packs, pack


def rotary_forward(x, cos, sin, heads, needs=(True,)):
    """x (B, T, H·D) -> (B, H, T, D), turned."""
    B, T, width = x.shape
    if 2 * cos.shape[-1] * heads != width:
        y, cache = plain.rotary_forward(x, cos, sin, heads)
        return y.astype(x.dtype, copy=False), cache
    y = cupy.empty((B, T, heads, width // heads) if x.itemsize == 2 else (B, heads, T, width // heads), x.dtype)
    _turn(x, cos, sin, y, (T, heads, width // heads), back=False)
    return y.swapaxes(1, 2) if x.itemsize == 2 else y, (cos, sin)


def rotary_backward(dy, cache):
    """dx (B, T, H·D)."""
    B, H, T, D = dy.shape
    if 2 * cache[0].shape[-1] != D:
        (dx,) = plain.rotary_backward(dy, cache)
        return (dx.astype(dy.dtype, copy=False),)
    dx = cupy.empty((B, T, H * D), dy.dtype)
    _turn(dy.swapaxes(1, 2) if dy.itemsize == 2 else dy, *cache, dx, (T, H, D), back=True)
    return (dx,)


def _turn(x, cos, sin, out, sizes, back):
    T, H, D = sizes
    x, cos, sin = cupy.ascontiguousarray(x), *(cupy.ascontiguousarray(a, dtype=np.float32) for a in (cos, sin))
    packed = in_packs(D // 2, x, out)
    width = H * D // 2 // (pack(x.dtype) if packed and x.itemsize == 2 else 1)
    options = T, H, D // 2, cos.ndim == 3, back, x.itemsize == 4, packed
    by_rows("rotary", x.size // (H * D), width, x, cos, sin, out, *options, each=1 if x.itemsize == 2 else 4)
