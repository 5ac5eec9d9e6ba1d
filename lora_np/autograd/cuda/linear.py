"""The linear layer and LoRA's, in CUDA; derived in `fused/linear.py`. cuBLAS adds biases and sums of products.

Beside x in 16 bits A and B, which are learned in float32, are rounded to its dtype for their products; their gradients
are added up and written in float32.
"""

import numpy as np

from ..lazy import made
from .blas import gemm
from .blaslt import gemm_with_bias
from .narrow import narrowed


def linear_forward(x, weight, bias, fan_in_fan_out=False, needs=(True, True, True)):
    """y = x Wᵀ + b."""
    kinds = weight.dtype, None if bias is None else bias.dtype
    w = _in_out(weight, fan_in_fan_out, x)
    rows = x.reshape(-1, w.shape[0])
    y = _product(rows, w, bias)
    cache = (rows if needs[1] else None, weight if needs[0] else None, x.shape, fan_in_fan_out, needs, kinds)
    return y.reshape(*x.shape[:-1], w.shape[1]), cache


def linear_backward(dy, cache):
    """dx, dweight, dbias."""
    x, weight, shape, fan_in_fan_out, needs, kinds = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = gemm(dy, _in_out(weight, fan_in_fan_out, dy).T).reshape(shape) if needs[0] else None
    dw = _weight_gradient(x, dy, fan_in_fan_out, kinds[0]) if needs[1] else None
    return dx, dw, _summed(dy, kinds[1]) if needs[2] else None


def lora_linear_forward(
    x, weight, bias, lora_A, lora_B, scaling, fan_in_fan_out=False, mask=None, needs=(False, False, False, True, True)
):
    """y = x Wᵀ + b + s (m∘x) Aᵀ Bᵀ."""
    kinds = [None if p is None else p.dtype for p in (weight, bias, lora_A, lora_B)]
    w = _in_out(weight, fan_in_fan_out, x)
    lora_A, lora_B = narrowed(lora_A, x.dtype), narrowed(lora_B, x.dtype)
    rows = x.reshape(-1, w.shape[0])
    mask = None if mask is None else mask.reshape(rows.shape)
    dropped = rows if mask is None else rows * mask
    h = gemm(dropped, lora_A.T)  # (N, r)
    y = branch_and_base(rows, w, bias, (h, lora_B.T, scaling))
    saved = (rows if needs[1] else None, dropped if needs[3] else None, h if needs[4] else None)
    matrices = (weight if needs[0] else None, lora_A if needs[0] else None, lora_B)
    cache = (saved, matrices, mask if needs[0] else None, scaling, x.shape, fan_in_fan_out, needs, kinds)
    return y.reshape(*x.shape[:-1], w.shape[1]), cache


def lora_linear_backward(dy, cache):
    """dx, dweight, dbias, dlora_A, dlora_B."""
    (rows, dropped, h), (weight, lora_A, lora_B), mask, scaling, shape, fan_in_fan_out, needs, kinds = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = dA = None
    if needs[0] or needs[3]:
        g = gemm(dy, lora_B, alpha=scaling)  # (N, r)
    if needs[0]:
        dx = gemm(g, lora_A)  # first, so that the large product adds to it: see `branch_and_base`
        dx = dx if mask is None else dx * mask
        dx = gemm(dy, _in_out(weight, fan_in_fan_out, dy).T, out=dx, beta=1.0).reshape(shape)
    if needs[3]:
        dA = gemm(g.T, dropped, dtype=kinds[2])
    dw = _weight_gradient(rows, dy, fan_in_fan_out, kinds[0]) if needs[1] else None
    dB = gemm(dy.T, h, alpha=scaling, dtype=kinds[3]) if needs[4] else None
    return dx, dw, _summed(dy, kinds[1]) if needs[2] else None, dA, dB


def _in_out(weight, fan_in_fan_out, x):
    """The weight as (in, out), in the dtype of x; it may be a `Lazy` one, which is made here."""
    weight = made(weight, x.dtype)
    return weight if fan_in_fan_out else weight.T


def branch_and_base(x, w, bias, branch):
    """x w + b + s h Bᵀ for w (in, out) and branch (h (N, r), Bᵀ (r, out), s), or None.

    The branch is computed first, and the large product adds it while it multiplies. The other way round the small one
    would read and write all of y again, with nothing to compute meanwhile.
    """
    if branch is None:
        return _product(x, w, bias)
    h, B, scaling = branch
    y = gemm(h, B, alpha=scaling)
    return gemm(x, w, out=y, beta=1.0) if bias is None else gemm_with_bias(x, w, bias, out=y, beta=1.0)


def _product(x, w, bias):
    return gemm(x, w) if bias is None else gemm_with_bias(x, w, bias)


def _weight_gradient(x, dy, fan_in_fan_out, dtype):
    return gemm(x.T, dy, dtype=dtype) if fan_in_fan_out else gemm(dy.T, x, dtype=dtype)


def _summed(dy, dtype):
    """The sum of the rows, added up in float32, in the dtype of the bias."""
    return dy.sum(axis=0, dtype=np.float32).astype(dtype, copy=False)
