r"""Merging into a base in 4 bits: W + ΔW is no 4-bit weight, so that it is rounded, and how much that changes is said.

W = Q(W) lies on the grid of its 16 values a block. ΔW is mostly smaller than the grid's steps: what is stored is
Q(W + ΔW), and the error e = Q(W + ΔW) - (W + ΔW) is often as large as ΔW itself. The adapter was trained beside W's
rounding errors, not beside these. (PEFT merges so too, and warns without a number.)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd.devices import array_module
from ..autograd.tensor import data
from ..refusals import warn
from .types import Array


def requantization_error(
    W: Tensor | Array, delta: Tensor | Array, block_size: int = 64, double_quant: bool = True
) -> tuple[float, float]:
    """(‖e‖ / ‖W + ΔW‖, ‖e‖ / ‖ΔW‖) with e = Q(W + ΔW) - (W + ΔW): what merging into 4 bits loses.

    W and ΔW of one shape, W as the layer has it in 4 bits; the other arguments are those of `quantize_nf4`. With the
    second number near 1 or above, rounding hides the update. Infinite where ΔW is zero and W is not on the grid.
    """
    weight, update = data(W), data(delta)
    if weight.shape != update.shape:
        raise ValueError(f"W and delta must have one shape, got {weight.shape} and {update.shape}")
    summed = weight + update
    return _errors(nn.quantize_nf4(summed, block_size, double_quant), weight, summed)


def _errors(quantized, weight, summed):
    lost, whole, update = (
        float(array_module(x).linalg.norm(x.astype(np.float64)))
        for x in (nn.dequantize_nf4(quantized) - summed, summed, summed - weight)
    )
    return lost / whole if whole else 0.0, lost / update if update else (float("inf") if lost else 0.0)


def requantized(layers: Mapping[str, Any], merged: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """{name: (weight, bias)} to be put into these layers, weights of 4-bit layers in 4 bits; warns of what that loses.

    A weight to which nothing is added stays as it is. ValueError, with the layer's name, for one that cannot be
    quantised.
    """
    found, errors = dict(merged), {}
    for name, (weight, bias) in merged.items():
        base = layers[name].base_layer
        if isinstance(base, nn.Linear4bit) and (weight == base.weight.data).all():
            found[name] = base.quantized, bias
        elif isinstance(base, nn.Linear4bit):
            try:
                quantized = base.quantized_like(weight)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            found[name] = quantized, bias
            errors[name] = _errors(quantized, base.weight.data, weight)[1]
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        mean = sum(errors.values()) / len(errors)
        warn(
            f"merging into 4 bits rounds: the error is {mean:.0%} of the update's size on average, and "
            f"{errors[worst]:.0%} in {worst}; put the adapter on the base in float32, and merge there, to lose nothing"
        )
    return found
