"""Rotary positions in CUDA; derived in `fused/rotary.py`, whose functions do where a part of each head turns."""

import cupy

from ..fused import rotary as plain
from .launch import by_rows


def rotary_forward(x, cos, sin, heads, needs=(True,)):
    """x (B, T, H·D) -> (B, H, T, D), turned."""
    B, T, width = x.shape
    if 2 * cos.shape[-1] * heads != width:
        return plain.rotary_forward(x, cos, sin, heads)
    y = cupy.empty((B, heads, T, width // heads), x.dtype)
    _turn(x, cos, sin, y, (T, heads, width // heads), back=False)
    return y, (cos, sin)


def rotary_backward(dy, cache):
    """dx (B, T, H·D)."""
    B, H, T, D = dy.shape
    if 2 * cache[0].shape[-1] != D:
        return plain.rotary_backward(dy, cache)
    dx = cupy.empty((B, T, H * D), dy.dtype)
    _turn(dy, *cache, dx, (T, H, D), back=True)
    return (dx,)


def _turn(x, cos, sin, out, sizes, back):
    T, H, D = sizes
    x, cos, sin = map(cupy.ascontiguousarray, (x, cos, sin))
    by_rows("rotary", x.size // (H * D), H * D // 2, x, cos, sin, out, T, H, D // 2, cos.ndim == 3, back)
