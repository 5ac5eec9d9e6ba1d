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
from ..adapter import Adapter, Matrix, Target, dtype_beside
from ..base_layer import oriented, reduced
from ..layer import LowRankAdapter
from ..types import Array, Config, Input, Layer
from .embedding import EmbeddingAdapter


class Magnitudes(Adapter):
    """What DoRA adds to a kind that has A and B: trained magnitudes m, `lora_magnitude_vector`. Abstract."""

    names_in_file = {"lora_magnitude_vector.weight": "lora_magnitude_vector"}

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.lora_magnitude_vector = Matrix(self._first_lengths(target.layer))

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return config.use_dora

    def _first_lengths(self, layer: Layer) -> Array:
        """n at the start, beside what the initialisation is about to leave of W."""
        if nn.is_weightless():
            return nn.filled(layer.out_features, 1.0)
        left = reduced(layer, layer.weight.data, [self.initial] if self.initial else [])
        weight: Array = oriented(layer, left).astype(dtype_beside(layer), copy=False)
        return _lengths(weight + self.delta_weight())

    def _ratio(self, layer):
        """m/n (out,)."""
        return self.lora_magnitude_vector.weight / _lengths(self._adapted(layer))

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        base = oriented(layer, layer.weight.data).astype(weight.dtype, copy=False)
        adapted = self._adapted(layer)  # W + s·B A alone: `weight` may hold other adapters' ΔW already
        ratio = self.lora_magnitude_vector.weight.data / _lengths(adapted)
        return weight + (ratio[:, None] * adapted - base), bias

    def _adapted(self, layer):
        """W + s·B A (out, in): an array, so no gradient flows into it."""
        return oriented(layer, layer.weight.data) + self.delta_weight()


class Dora(Magnitudes, LowRankAdapter):
    """DoRA beside a linear layer."""

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """(m/n - 1)·(base(x) - bias) + (m/n)·s·B A x; dropout acts on both terms."""
        ratio = self._ratio(layer)
        if self.lora_dropout.p and self.lora_dropout.training:
            x = self.lora_dropout(x)
            linear = F.linear(x, layer.weight, None, layer.fan_in_fan_out)
        else:
            linear = base if layer.bias is None else base - layer.bias
        return (ratio - 1.0) * linear + ratio * self.branch(x)


class DoraEmbedding(Magnitudes, EmbeddingAdapter):
    """DoRA beside an embedding: m has one magnitude for each of its dim columns."""

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return config.use_dora and EmbeddingAdapter.wanted(config, target)

    def update(self, layer: Layer, ids: Input, base: Tensor) -> Tensor:
        """(m/n - 1)·base(ids) + (m/n)·s·A[:, ids]ᵀ Bᵀ."""
        ratio = self._ratio(layer)
        return (ratio - 1.0) * base + ratio * self.branch(ids)


def _lengths(weight):
    """The Euclidean length of each row, above zero even for a row of zeros: it is divided by."""
    xp = array_module(weight)
    return xp.maximum(xp.sqrt((weight * weight).sum(axis=1)), np.finfo(weight.dtype).tiny)
