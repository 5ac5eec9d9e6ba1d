"""LayerNorm and RMSNorm in CUDA, one block for each row; derived in `fused/norm.py`."""

import cupy

from .launch import by_rows


def layer_norm_forward(x, weight, bias, eps=1e-5, needs=(True, True, True)):
    """y = x̂ ∘ w + b."""
    rows, (y, normed, inv_std) = _prepare(x, needs)
    by_rows("layer_norm_forward", len(rows), rows.shape[1], rows, weight, bias, y, normed, inv_std, rows.shape[1], eps)
    return y.reshape(x.shape), (normed, inv_std, weight if needs[0] else None, x.shape, needs)


def layer_norm_backward(dy, cache):
    """dx, dweight, dbias."""
    dx, dw, dy = _gradients("layer_norm_backward", dy, cache)
    return dx, dw, dy.sum(axis=0) if cache[-1][2] else None


def rms_norm_forward(x, weight, eps=1e-6, needs=(True, True)):
    """y = x̂ ∘ w."""
    rows, (y, normed, inv_rms) = _prepare(x, needs)
    by_rows("rms_norm_forward", len(rows), rows.shape[1], rows, weight, y, normed, inv_rms, rows.shape[1], eps)
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
        by_rows(kernel, len(dy), shape[-1], dy, weight, normed, inverse, dx, shape[-1])
        dx = dx.reshape(shape)
    return dx, (dy * normed).sum(axis=0) if needs[1] else None, dy
