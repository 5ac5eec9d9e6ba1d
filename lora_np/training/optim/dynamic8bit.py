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
def _on(device: Any, signed: bool) -> tuple[Array, Array]:
    """(the values, the middles between neighbours) on a device."""
    values = dynamic_code(signed)
    return to_device(values, device), to_device((values[1:] + values[:-1]) / 2, device)


def quantize_blockwise(x: Array, signed: bool = True) -> tuple[Array, Array]:
    """(codes uint8 in the shape of x, absmax (blocks,) float32): each number is near absmax · dynamic_code[code].

    absmax is the largest |x| of each block of 256 numbers in a row, the last of which may be shorter. An error is at
    most 0.7% of absmax, and below that mostly about 4% (with a sign) of the number itself.
    """
    xp = array_module(x)
    blocks = in_rows(x.astype(np.float32, copy=False), BLOCK)
    absmax = xp.abs(blocks).max(axis=1)
    codes = xp.searchsorted(_on(device_of(x), signed)[1], (blocks / divisor(absmax)).reshape(-1))
    return codes[: x.size].astype(np.uint8).reshape(x.shape), absmax


def dequantize_blockwise(codes: Array, absmax: Array, signed: bool = True) -> Array:
    """The float32 numbers that codes and absmax stand for, in the shape of the codes."""
    values = in_rows(_on(device_of(codes), signed)[0][codes], BLOCK)
    return (values * absmax[:, None]).reshape(-1)[: codes.size].reshape(codes.shape)
