r"""`init_lora_weights="mica"`: LoRA that writes where W hardly does. (Rüdiger and Raschka, 2026, "MiCA Learns More
Knowledge Than LoRA and Full Fine-Tuning".)

    W = U S Vᵀ (out, in),   B = the last r columns of U,   A = 0 (r, in);   ΔW = s·B A

B is frozen, and only A is trained: r·in numbers a layer. B's columns are the directions in the output that W's smallest
singular values belong to, its minor components, where PiSSA takes the largest. As A = 0, training starts exactly at the
base model, whose weight stays as it is. ΔW has rank r and merges as LoRA's does.

The claim: up to 5.9 times as much new knowledge is taken up as with LoRA, each at its best settings, with 6 to 60% of
its trained numbers.

PEFT freezes B only where the name is written in small letters; here any spelling of it does.
"""

from typing import Self

import numpy as np

from ... import nn
from ...autograd.devices import to_device, to_numpy
from ..adapter import Adapter, Target
from ..init import check_rank, mica
from ..layer import LoraAdapter
from ..types import Config
from .embedding import EmbeddingAdapter


class FrozenB(Adapter):
    """What MiCA adds to a kind that has A and B: B is not trained. Abstract."""

    learns_faster: tuple[str, ...] = ()

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return bool(config.init_lora_weights == "mica")

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        super().check(config, target)
        check_rank("mica", (target.layer.out_features, target.layer.in_features), target.r)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train A, or freeze it; B stays frozen."""
        super().requires_grad_(requires_grad)
        _, B = self.matrices()  # type: ignore[attr-defined]
        B.requires_grad = False
        return self


class Mica(FrozenB, LoraAdapter):
    """MiCA beside a linear layer."""

    idle_if_zero = "lora_A.weight"

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        check_rank("mica", (target.layer.out_features, target.layer.in_features), target.r)


class MicaEmbedding(FrozenB, EmbeddingAdapter):
    """MiCA beside an embedding: B (dim, r) is of its weight turned to (dim, vocabulary)."""

    idle_if_zero = "lora_embedding_A"

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        if not nn.is_weightless():
            weight = to_numpy(target.layer.weight.data).T
            _, B = mica(weight.astype(np.result_type(weight.dtype, np.float32)), target.r, self.scaling)
            self.lora_embedding_B = nn.Parameter(to_device(np.ascontiguousarray(B), target.layer.device))

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return config.init_lora_weights == "mica" and isinstance(target.layer, nn.Embedding)
