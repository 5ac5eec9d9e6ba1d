"""LayerNorm and RMSNorm in CUDA, one block for each row; derived in `fused/norm.py`."""

import cupy

from .launch import by_rows, in_fours


def layer_norm_forward(x, weight, bias, eps=1e-5, needs=(True, True, True)):
    """y = x̂ ∘ w + b."""
    rows, (y, normed, inv_std) = _prepare(x, needs)
    _start("layer_norm_forward", (rows, weight, bias, y, normed, inv_std), eps)
    return y.reshape(x.shape), (normed, inv_std, weight if needs[0] else None, x.shape, needs)


def layer_norm_backward(dy, cache):
    """dx, dweight, dbias."""
    dx, dw, dy = _gradients("layer_norm_backward", dy, cache)
    return dx, dw, dy.sum(axis=0) if cache[-1][2] else None


def rms_norm_forward(x, weight, eps=1e-6, needs=(True, True)):
    """y = x̂ ∘ w."""
    rows, (y, normed, inv_rms) = _prepare(x, needs)
    _start("rms_norm_forward", (rows, weight, y, normed, inv_rms), eps)
    return y.reshape(x.shape), (normed, inv_rms, weight if needs[0] else None, x.shape, needs)


def rms_norm_backward(dy, cache):
    """dx, dweight."""
    dx, dw, _ = _gradients("rms_norm_backward", dy, cache)
    return dx, dw


def _prepare(x, needs):
    """The rows of x, and arrays for the result and for what the gradients need."""
    rows = cupy.ascontiguousarray(x).reshape(-1, x.shape[-1])
    normed = cupy.empty_like(rows) if needs[0] or needs[1] else None
    return rows, (cupy.empty_like(rows), normed, cupy.empty(len(rows), x.dtype) if needs[0] else None)


def _gradients(kernel, dy, cache):
    """dx, dweight, and dy as rows."""
    normed, inverse, weight, shape, needs = cache
    dy = cupy.ascontiguousarray(dy).reshape(-1, shape[-1])
    dx = None
    if needs[0]:
        dx = cupy.empty_like(dy)
        _start(kernel, (dy, weight, normed, inverse, dx))
        dx = dx.reshape(shape)
    return dx, (dy * normed).sum(axis=0) if needs[1] else None, dy


def _start(kernel, arrays, *options):
    """One block for each row of the first array; by four numbers at a time where all but 1/σ allow it."""
    rows, width = arrays[0].shape
    fours = in_fours(width, *(x for x in arrays if x is not None and x.shape[-1] == width))
    by_rows(kernel, rows, width, *arrays, width, *options, fours)
