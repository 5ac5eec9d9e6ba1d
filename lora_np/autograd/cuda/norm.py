"""LayerNorm and RMSNorm in CUDA, one block for each row; derived in `fused/norm.py`."""

import cupy
import numpy as np

from .launch import by_rows, in_packs


def layer_norm_forward(x, weight, bias, eps=1e-5, needs=(True, True, True)):
    """y = x̂ ∘ w + b."""
    rows, weight, bias, (y, normed, inv_std), kinds = _prepare(x, needs, weight, bias)
    _start("layer_norm_forward", (rows, weight, bias, y, normed, inv_std), eps)
    return y.reshape(x.shape), (normed, inv_std, weight if needs[0] else None, x.shape, needs, kinds)


def layer_norm_backward(dy, cache):
    """dx, dweight, dbias."""
    dx, dw, dy = _gradients("layer_norm_backward", dy, cache)
    needs, kinds = cache[-2:]
    return dx, dw, _summed(dy, kinds[1]) if needs[2] else None


def rms_norm_forward(x, weight, eps=1e-6, needs=(True, True)):
    """y = x̂ ∘ w."""
    rows, weight, (y, normed, inv_rms), kinds = _prepare(x, needs, weight)
    _start("rms_norm_forward", (rows, weight, y, normed, inv_rms), eps)
    return y.reshape(x.shape), (normed, inv_rms, weight if needs[0] else None, x.shape, needs, kinds)


def rms_norm_backward(dy, cache):
    """dx, dweight."""
    dx, dw, _ = _gradients("rms_norm_backward", dy, cache)
    return dx, dw


def _prepare(x, needs, *parameters):
    """(rows of x, the parameters in its dtype, arrays for the result and for gradients, the parameters' dtypes)."""
    rows = cupy.ascontiguousarray(x).reshape(-1, x.shape[-1])
    normed = cupy.empty_like(rows) if needs[0] or needs[1] else None
    new = cupy.empty_like(rows), normed, cupy.empty(len(rows), np.float32) if needs[0] else None
    return rows, *(cupy.ascontiguousarray(p, dtype=x.dtype) for p in parameters), new, [p.dtype for p in parameters]


def _gradients(kernel, dy, cache):
    """dx, dweight, and dy as rows."""
    normed, inverse, weight, shape, needs, kinds = cache
    dy = cupy.ascontiguousarray(dy).reshape(-1, shape[-1])
    dx = None
    if needs[0]:
        dx = cupy.empty_like(dy)
        _start(kernel, (dy, weight, normed, inverse, dx))
        dx = dx.reshape(shape)
    return (
        dx,
        _summed(dy.astype(np.float32, copy=False) * normed.astype(np.float32, copy=False), kinds[0])
        if needs[1]
        else None,
        dy,
    )


def _summed(rows, dtype):
    """The sum of the rows, added up in float32, in the dtype of a parameter."""
    return rows.sum(axis=0, dtype=np.float32).astype(dtype, copy=False)


def _start(kernel, arrays, *options):
    """One block for each row of the first array; by PACK numbers at a time where all but 1/σ allow it."""
    rows, width = arrays[0].shape
    packed = in_packs(
        width, *(x for x in arrays if x is not None and x.shape[-1] == width and x.dtype == arrays[0].dtype)
    )
    by_rows(kernel, rows, width, *arrays, width, *options, packed)
