"""Pairs for numbers that are stored in 16 bits, bfloat16 or float16, and computed with in float32.

NumPy has no fast product of 16-bit numbers, and what it adds up in 16 bits overflows or stands still. A linear layer's
weight, and the head's, is turned into float32 block by block, each of which is used and forgotten: whole, it would take
the memory that its 16 bits have saved. All other pairs are those for float32, with every input turned first
(`in_float32`): what they read in 16 bits is small. Results are rounded once, to the dtype of the first input; a linear
layer's to float32 where its weight is in that, as an adapter's is beside a base in float16.
"""

import numpy as np

from ..float_types import in_16_bits, is_bfloat16, widened
from . import linear, loss

BLOCK = 1 << 20  # numbers of a weight at once: 4 MiB of float32


def product(x, w):
    """x w for x (N, in) in float32 and w (in, out) in 16 bits -> (N, out), a block of w at a time.

    A block is some of the rows that w is stored in. Where these are its columns, each block gives some of the result's
    columns; where they are its rows, each gives a term of the whole result.
    """
    by_columns = not w.flags.c_contiguous
    y = np.empty((len(x), w.shape[1]), x.dtype) if by_columns else np.zeros((len(x), w.shape[1]), x.dtype)
    step = max(1, BLOCK // max(1, w.shape[0 if by_columns else 1]))
    for start in range(0, w.shape[1 if by_columns else 0], step):
        part = slice(start, start + step)
        if by_columns:
            np.matmul(x, _wide(w[:, part]), out=y[:, part])
        else:
            y += x[:, part] @ _wide(w[part])
    return y


def linear_forward(x, weight, bias, fan_in_fan_out=False, needs=(True, True, True)):
    """y = x Wᵀ + b; see `linear.linear_forward`."""
    if needs[1] or not in_16_bits(weight.dtype):
        return in_float32(linear.linear_forward, (x, weight, bias), (fan_in_fan_out,), needs)
    w = weight if fan_in_fan_out else weight.T  # (in, out)
    y = product(x.reshape(-1, w.shape[0]), w)
    if bias is not None:
        y += _wide(bias)
    return y.reshape(*x.shape[:-1], w.shape[1]), (None, w if needs[0] else None, x.shape, bias, needs)


def linear_backward(dy, cache):
    """dx, None, dbias."""
    if len(cache) == 2:
        return back_in_float32(linear.linear_backward, dy, cache)
    _, w, shape, bias, needs = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = product(dy, w.T).reshape(shape) if needs[0] else None
    return dx, None, dy.sum(axis=0).astype(bias.dtype) if needs[2] else None


def lora_linear_forward(
    x, weight, bias, lora_A, lora_B, scaling, fan_in_fan_out=False, mask=None, needs=(False, False, False, True, True)
):
    """y = x Wᵀ + b + s (m∘x) Aᵀ Bᵀ; see `linear.lora_linear_forward`. A and B are in float32."""
    inputs, options = (x, weight, bias, lora_A, lora_B), (scaling, fan_in_fan_out, mask)
    if needs[1] or needs[2] or not in_16_bits(weight.dtype):
        return in_float32(linear.lora_linear_forward, inputs, options, needs)
    w = weight if fan_in_fan_out else weight.T  # (in, out)
    rows = x.reshape(-1, w.shape[0])
    mask = None if mask is None else mask.reshape(rows.shape)
    dropped = rows if mask is None else rows * mask
    h = dropped @ lora_A.T  # (N, r)
    y = product(rows, w)
    y += (h * scaling) @ lora_B.T
    if bias is not None:
        y += _wide(bias)
    saved = (dropped if needs[3] else None, h if needs[4] else None)
    matrices = (w if needs[0] else None, lora_A if needs[0] else None, lora_B)
    return y.reshape(*x.shape[:-1], w.shape[1]), (saved, matrices, mask if needs[0] else None, scaling, x.shape, needs)


def lora_linear_backward(dy, cache):
    """dx, None, None, dlora_A, dlora_B."""
    if len(cache) == 2:
        return back_in_float32(linear.lora_linear_backward, dy, cache)
    (dropped, h), (w, lora_A, lora_B), mask, scaling, shape, needs = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = None
    g = (dy @ lora_B) * scaling if needs[0] or needs[3] else None  # (N, r)
    if needs[0]:
        dx = product(dy, w.T)
        dx += g @ lora_A if mask is None else (g @ lora_A) * mask
        dx = dx.reshape(shape)
    dA = g.T @ dropped if needs[3] else None
    return dx, None, None, dA, dy.T @ (h * scaling) if needs[4] else None


def linear_cross_entropy_forward(
    x, weight, targets, ignore_index=-100, needs=(True, True), chunk_bytes=loss.CHUNK_BYTES
):
    """cross_entropy(x Wᵀ, targets); see `loss.linear_cross_entropy_forward`."""
    if needs[1] or not in_16_bits(weight.dtype):
        return in_float32(loss.linear_cross_entropy_forward, (x, weight), (targets, ignore_index), needs)
    rows, picked, n = loss.counted_rows(targets, x, ignore_index)
    counted, total = x[rows], 0.0
    dx = np.empty_like(counted) if needs[0] else None
    step = loss.chunk_rows(len(counted), len(weight) * x.itemsize, chunk_bytes)
    for start in range(0, len(counted), step):
        chunk = slice(start, start + step)
        logits = product(counted[chunk], weight.T)
        total = total + loss.softmax_and_losses(logits, picked[chunk]).sum()
        if needs[0]:
            loss.subtract_onehot(logits, picked[chunk])
            dx[chunk] = product(logits, weight)
    return total / n, (loss.scatter_rows(dx, rows, x.shape), None, n)


def linear_cross_entropy_backward(dloss, cache):
    """dx, None."""
    if len(cache) == 2:
        return back_in_float32(loss.linear_cross_entropy_backward, dloss, cache)
    return loss.linear_cross_entropy_backward(dloss, cache)


def in_float32(forward, inputs, options, needs, kept=(), promoted=False):
    """(result, cache) of a forward function for float32, on inputs of which some are in 16 bits.

    kept: the places of those that the function itself turns. promoted: is the result's dtype the wider one of the first
    two, in place of the first's? A single number stays in float32.
    """
    wide = [x if i in kept else _wide(x) for i, x in enumerate(inputs)]
    out, cache = forward(*wide, *options, needs=needs)
    kinds = [None if x is None else x.dtype for x in inputs]
    kind = np.result_type(*kinds[:2]) if promoted and not is_bfloat16(kinds[0]) else kinds[0]
    return out.astype(kind, copy=False) if out.ndim else out, (cache, kinds)


def back_in_float32(backward, dy, cache):
    """The gradients of such a forward, each in the dtype of its input."""
    cache, kinds = cache
    found = backward(_wide(dy), cache)
    return tuple(None if d is None else d.astype(kind, copy=False) for d, kind in zip(found, kinds, strict=True))


def pair_in_float32(forward, backward, kept=(), promoted=False):
    """A pair for float32 as one whose inputs may be in 16 bits, on a CPU or a GPU. kept, promoted: see `in_float32`."""

    def forward_of_any(*arguments, needs):
        inputs, options = arguments[: len(needs)], arguments[len(needs) :]
        return in_float32(forward, inputs, options, needs, kept, promoted)

    return forward_of_any, lambda dy, cache: back_in_float32(backward, dy, cache)


def narrow_pair(name, x, functions):
    """The pair of an operation whose first input is x, where some are in 16 bits. functions: its plain pair."""
    in_blocks = name in PAIRS and isinstance(x, np.ndarray) and (x.dtype == np.float32 or in_16_bits(x.dtype))
    if in_blocks and x.dtype == np.float32:
        return PAIRS[name]
    return pair_in_float32(*(PAIRS[name] if in_blocks else functions), (1,) if in_blocks else (), name == "linear")


def _wide(x):
    if x is None or not in_16_bits(x.dtype):
        return x
    wide = widened(x)
    return wide if wide is not x else x.astype("float32")


PAIRS = {
    "linear": (linear_forward, linear_backward),
    "lora_linear": (lora_linear_forward, lora_linear_backward),
    "linear_cross_entropy": (linear_cross_entropy_forward, linear_cross_entropy_backward),
}
