r"""Numbers in 8 bits for an optimizer's state: blocks with a scale each, and a code that is fine near zero.

From Dettmers et al., 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861), sections 2.1 to 2.3.
Plain functions on arrays, NumPy's or CuPy's.
"""

import functools
from typing import Any

import numpy as np

from ...autograd.devices import array_module, device_of, to_device
from ...nn.nf4 import divisor, in_rows
from ..protocols import Array

BLOCK = 256  # numbers that share a scale: bitsandbytes' size; the paper has 2048


@functools.cache
def dynamic_code(signed: bool) -> Array:
    r"""The 256 values of dynamic tree quantisation, float32 and increasing; the largest is 1.

    A byte says with its leading zeros which power of ten a number has, 10^-6 to 10^0, and with the bits behind them
    where it lies between 0.1 and 1 of that power. So there are 1, 2, 4, ... 64 values of either sign in the powers
    from the smallest to the largest: the middles of as many equal parts. Without a sign there are twice as many
    positive ones. 0 and 1 come besides, exactly. (Section 2.3, and `create_dynamic_map` of bitsandbytes.)
    """
    positive = []
    for power in range(7):
        ends = np.linspace(0.1, 1.0, 2 ** (power if signed else power + 1) + 1)
        positive += (10.0 ** (power - 6) * (ends[:-1] + ends[1:]) / 2).tolist()
    negative = [-value for value in positive] if signed else []
    return np.array(sorted([*negative, 0.0, *positive, 1.0]), np.float32)


@functools.cache
def _on(device: Any, signed: bool) -> tuple[Array, Array, Array]:
    """On a device: the values; the middles between neighbours, and infinity; and where to begin looking among them.

    The upper 16 bits of a float32 say what it is up to 0.8%, and no two middles lie so near to each other: `first`
    (65536,) has, for these bits, how many middles lie below all numbers that begin so. The next one decides.
    """
    values = dynamic_code(signed)
    middles = np.append((values[1:] + values[:-1]) / 2, np.float32(np.inf))
    bits = np.arange(2**16, dtype=np.uint32)
    lowest = ((bits + (bits >> 15)) << 16).view(np.float32)  # of the numbers that begin so: below zero, the next one
    first = np.searchsorted(middles[:-1], lowest).astype(np.uint8)
    return to_device(values, device), to_device(middles, device), to_device(first, device)


def _nearest(x: Array, signed: bool) -> Array:
    """The index of the value nearest to each x, uint8: how many of the middles lie below it."""
    _, middles, first = _on(device_of(x), signed)
    codes = first[x.view(np.uint32) >> 16]
    codes += x > middles[codes]
    return codes


def quantize_blockwise(x: Array, signed: bool = True) -> tuple[Array, Array]:
    """(codes uint8 in the shape of x, absmax (blocks,) float32): each number is near absmax · dynamic_code[code].

    absmax is the largest |x| of each block of 256 numbers in a row, the last of which may be shorter. An error is at
    most 0.71% of absmax with a sign and 0.36% without, and the smaller the number the smaller it is: the finest steps
    are 10^-6 of absmax. Numbers below half of that become 0.
    """
    xp = array_module(x)
    blocks = in_rows(x.astype(np.float32, copy=False), BLOCK)
    absmax = xp.abs(blocks).max(axis=1)
    codes = _nearest(blocks / divisor(absmax), signed).reshape(-1)
    return codes[: x.size].copy().reshape(x.shape), absmax  # a copy, or the view would hold the padding too


def dequantize_blockwise(codes: Array, absmax: Array, signed: bool = True) -> Array:
    """The float32 numbers that codes and absmax stand for, in the shape of the codes."""
    values = in_rows(_on(device_of(codes), signed)[0][codes], BLOCK)
    return (values * absmax[:, None]).reshape(-1)[: codes.size].reshape(codes.shape)
