"""Attention in rows that hold several texts, in 16 bits by cuDNN, which is told where each text begins.

cuDNN calls it ragged: a batch of texts of unequal lengths, the tokens of all in one array without padding. Its plan
depends on how many texts there are; their number is rounded up by texts of no token, so that few plans are made.
What cuDNN does not do, `fused/texts.py` does, text by text.
"""

import functools
from typing import NamedTuple

import cupy
import numpy as np

from ..fused import texts as one_by_one
from . import flash
from .wide import in_float32

ONE_BY_ONE = in_float32(one_by_one.text_attention_forward, one_by_one.text_attention_backward)
AT_ONCE = 16  # the number of texts is rounded up to a multiple of this


class Saved(NamedTuple):
    """What the gradients need, as `flash.Saved`, and the texts."""

    arrays: dict
    texts: tuple
    scale: float
    window: int | None
    needs: tuple


def text_attention_forward(
    q, k, v, texts, scale=None, mask=None, key_mask=None, window=None, softcap=None, needs=(True, True, True)
):
    """q (B, H, T, D), k and v (B, K, T, D) -> (B, H, T, D)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    plain = mask is None and key_mask is None and softcap is None
    if plain and flash.may(q, k, v, True) and (done := _forward(q, k, v, texts, scale, window, needs)):
        return done
    forward, _ = ONE_BY_ONE
    return forward(q, k, v, texts, scale, mask, key_mask, window, softcap, needs=needs)


def text_attention_backward(dout, cache):
    """dq, dk, dv."""
    if not isinstance(cache, Saved):
        return ONE_BY_ONE[1](dout, cache)
    arrays, texts, scale, window, needs = cache
    gradients = {f"d{name}": flash.by_time(arrays[name]) for name in "qkv"}
    arrays = {**arrays, "dout": flash.readable(dout), **gradients}
    cudnn = flash.library()
    plan, arrays = _planned(cudnn, arrays, texts, scale, window)
    if plan is None:
        raise RuntimeError(f"cuDNN has no gradient of attention for texts in rows of {dout.shape}")
    flash.run(cudnn, plan, arrays)
    return tuple(d if need else None for d, need in zip(gradients.values(), needs, strict=True))


def _forward(q, k, v, texts, scale, window, needs):
    """The same by cuDNN, and what the gradients need; None if it is not here or has no such plan."""
    if (cudnn := flash.library()) is None:
        return None
    q, k, v = map(flash.readable, (q, k, v))
    if any(len(x) * flash.steps(x)[0] > np.iinfo(np.int32).max for x in (q, k, v)):
        return None  # places are told in 32 bits
    arrays = {"q": q, "k": k, "v": v, "out": flash.by_time(q)}
    arrays["sums"] = cupy.empty((_count(texts), q.shape[1], q.shape[2], 1), np.float32)
    plan, told = _planned(cudnn, arrays, texts, scale, window)
    if plan is None:
        return None
    flash.run(cudnn, plan, told)
    return arrays["out"], Saved(arrays, texts, scale, window, needs)


def _planned(cudnn, arrays, texts, scale, window):
    """(the plan, the arrays with what cuDNN is told of the texts)."""
    N, device = _count(texts), cupy.cuda.runtime.getDevice()
    told, layouts = {"lengths": _lengths(texts, device)}, []
    for name, x in arrays.items():
        shape, steps = x.shape, flash.steps(x)
        if name != "sums":
            told[f"{name} begins"] = _begins(texts, steps[0], steps[2], device)
            shape, steps = (N, *shape[1:]), (shape[2] * steps[2], *steps[1:])
        layouts.append((name, shape, steps))
    layouts += [(name, x.shape, flash.steps(x)) for name, x in told.items()]
    plan = flash.plan_of(cudnn, arrays["q"].dtype.name, tuple(layouts), True, scale, window)
    return plan, {**arrays, **told}


def _count(texts):
    return -(-len(texts) // AT_ONCE) * AT_ONCE


@functools.lru_cache(maxsize=16)
def _lengths(texts, device):
    """On this device (N, 1, 1, 1): the tokens of each text, and 0 for those that fill up."""
    lengths = np.zeros(_count(texts), np.int32)
    lengths[: len(texts)] = [stop - start for _, start, stop in texts]
    return cupy.asarray(lengths.reshape(-1, 1, 1, 1))


@functools.lru_cache(maxsize=64)
def _begins(texts, row_step, token_step, device):
    """On this device (N + 1, 1, 1, 1): where each text begins in an array with these steps, and where the last ends."""
    row, _, stop = texts[-1]
    begins = np.full(_count(texts) + 1, row * row_step + stop * token_step, np.int32)
    begins[: len(texts)] = [row * row_step + start * token_step for row, start, _ in texts]
    return cupy.asarray(begins.reshape(-1, 1, 1, 1))
