"""The linear layer and LoRA's, in CUDA; derived in `fused/linear.py`. cuBLAS adds biases and sums of products."""

from .blas import gemm
from .blaslt import gemm_with_bias


def linear_forward(x, weight, bias, fan_in_fan_out=False, needs=(True, True, True)):
    """y = x Wᵀ + b."""
    w = weight if fan_in_fan_out else weight.T  # (in, out)
    rows = x.reshape(-1, w.shape[0])
    y = _product(rows, w, bias)
    cache = (rows if needs[1] else None, w if needs[0] else None, x.shape, fan_in_fan_out, needs)
    return y.reshape(*x.shape[:-1], w.shape[1]), cache


def linear_backward(dy, cache):
    """dx, dweight, dbias."""
    x, w, shape, fan_in_fan_out, needs = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = gemm(dy, w.T).reshape(shape) if needs[0] else None
    dw = _weight_gradient(x, dy, fan_in_fan_out) if needs[1] else None
    return dx, dw, dy.sum(axis=0) if needs[2] else None


def lora_linear_forward(
    x, weight, bias, lora_A, lora_B, scaling, fan_in_fan_out=False, mask=None, needs=(False, False, False, True, True)
):
    """y = x Wᵀ + b + s (m∘x) Aᵀ Bᵀ. The branch is added to the layer's result where it stands."""
    w = weight if fan_in_fan_out else weight.T  # (in, out)
    rows = x.reshape(-1, w.shape[0])
    mask = None if mask is None else mask.reshape(rows.shape)
    dropped = rows if mask is None else rows * mask
    h = gemm(dropped, lora_A.T)  # (N, r)
    y = _product(rows, w, bias)
    gemm(h, lora_B.T, out=y, alpha=scaling, beta=1.0)
    saved = (rows if needs[1] else None, dropped if needs[3] else None, h if needs[4] else None)
    matrices = (w if needs[0] else None, lora_A if needs[0] else None, lora_B)
    cache = (saved, matrices, mask if needs[0] else None, scaling, x.shape, fan_in_fan_out, needs)
    return y.reshape(*x.shape[:-1], w.shape[1]), cache


def lora_linear_backward(dy, cache):
    """dx, dweight, dbias, dlora_A, dlora_B."""
    (rows, dropped, h), (w, lora_A, lora_B), mask, scaling, shape, fan_in_fan_out, needs = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = dA = None
    if needs[0] or needs[3]:
        g = gemm(dy, lora_B, alpha=scaling)  # (N, r)
    if needs[0]:
        dx = gemm(dy, w.T)
        if mask is None:
            gemm(g, lora_A, out=dx, beta=1.0)
        else:
            dx += gemm(g, lora_A) * mask
        dx = dx.reshape(shape)
    if needs[3]:
        dA = gemm(g.T, dropped)
    dw = _weight_gradient(rows, dy, fan_in_fan_out) if needs[1] else None
    dB = gemm(dy.T, h, alpha=scaling) if needs[4] else None
    return dx, dw, dy.sum(axis=0) if needs[2] else None, dA, dB


def _product(x, w, bias):
    return gemm(x, w) if bias is None else gemm_with_bias(x, w, bias)


def _weight_gradient(x, dy, fan_in_fan_out):
    return gemm(x.T, dy) if fan_in_fan_out else gemm(dy.T, x)
