"""Attention with a window, in 16 bits by cuDNN; with a cap, dropout or padding it is what `fused/bounded.py` does."""

from ..fused import bounded
from . import flash
from .wide import in_float32

IN_FULL = in_float32(bounded.bounded_attention_forward, bounded.bounded_attention_backward)


def bounded_attention_forward(
    q, k, v, causal=True, scale=None, mask=None, key_mask=None, window=None, softcap=None, needs=(True, True, True)
):
    """q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D)."""
    if causal and mask is None and key_mask is None and softcap is None:
        s = q.shape[-1] ** -0.5 if scale is None else scale
        if done := flash.forward(q, k, v, True, s, needs, window=window):
            return done
    return IN_FULL[0](q, k, v, causal, scale, mask, key_mask, window, softcap, needs=needs)


def bounded_attention_backward(dout, cache):
    """dq, dk, dv."""
    return flash.backward(dout, cache) if isinstance(cache, flash.Saved) else IN_FULL[1](dout, cache)
