r"""DoRA: the length of each row of W is learned apart from its direction. (Liu et al., 2024, eq. 5.)

    W' = (m / n) ∘ (W + s·B A),    n = the length of each row of W + s·B A

m (out,) is trained and n at first, so that training starts at the base model. For the gradient n counts as a
constant, which the paper found to lose nothing (its section 4.3).

Beside other active adapters it acts on W alone: the order does not matter, and merged they compute the same. PEFT has
DoRA act on the result of those before it; one DoRA adapter alone is the same in both.
"""

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module
from ..adapter import Matrix, Target, dtype_beside
from ..base_layer import oriented
from ..layer import LowRankAdapter
from ..types import Array, Config, Layer


class Dora(LowRankAdapter):
    """LoRA with trained magnitudes m, `lora_magnitude_vector`."""

    names_in_file = {"lora_magnitude_vector.weight": "lora_magnitude_vector"}

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.lora_magnitude_vector = Matrix(self._first_lengths(target.layer))

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return config.use_dora

    def _first_lengths(self, layer: Layer) -> Array:
        """n at the start. Where s·B A is about to be taken out of W, the two together are W."""
        if nn.is_weightless():
            return nn.filled(layer.out_features, 1.0)
        weight: Array = oriented(layer, layer.weight.data).astype(dtype_beside(layer), copy=False)
        return _lengths(weight if self.initial else weight + self.delta_weight())

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """(m/n - 1)·(base(x) - bias) + (m/n)·s·B A x; dropout acts on both terms."""
        ratio = self.lora_magnitude_vector.weight / _lengths(self._adapted(layer))  # (out,)
        if self.lora_dropout.p and self.lora_dropout.training:
            x = self.lora_dropout(x)
            linear = F.linear(x, layer.weight, None, layer.fan_in_fan_out)
        else:
            linear = base if layer.bias is None else base - layer.bias
        return (ratio - 1.0) * linear + ratio * self.branch(x)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        base = oriented(layer, layer.weight.data).astype(weight.dtype, copy=False)
        adapted = self._adapted(layer)  # W + s·B A alone: `weight` may hold other adapters' ΔW already
        ratio = self.lora_magnitude_vector.weight.data / _lengths(adapted)
        return weight + (ratio[:, None] * adapted - base), bias

    def _adapted(self, layer):
        """W + s·B A (out, in): an array, so no gradient flows into it."""
        return oriented(layer, layer.weight.data) + self.delta_weight()


def _lengths(weight):
    """The Euclidean length of each row, above zero even for a row of zeros: it is divided by."""
    xp = array_module(weight)
    return xp.maximum(xp.sqrt((weight * weight).sum(axis=1)), np.finfo(weight.dtype).tiny)
