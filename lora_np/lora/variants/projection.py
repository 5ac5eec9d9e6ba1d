"""Adapting q, k or v alone where the model computes all three in one product, as GPT-2's c_attn does.

The target `c_attn.q` means the first third of c_attn's outputs. Each of the n chosen parts has its own A_i (r, in) and
B_i (C, r). Together they are one adapter of rank n·r on the whole of c_attn: A stacks the A_i, and B (out, n·r) has B_i
in its part's rows and its A_i's columns, zeros elsewhere. In that form it is saved, and PEFT reads it exactly.
"""

from typing import Any

from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module
from ...autograd.dispatch import matmul
from ...autograd.shape_ops import concatenate
from ..adapter import Target
from ..layer import LowRankAdapter
from ..types import Array, Config, Layer


class PartialProjection(LowRankAdapter):
    """LoRA on n parts of a joint projection. `lora_B` holds only the blocks B_i, one below the other: (n·C, r)."""

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.names = target.layer.parts  # of all parts of the projection
        self.blocks = [self.names.index(part) for part in target.parts]

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return bool(target.parts)

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        if config.changes_base or config.use_dora or config.lora_bias:
            parts = ", ".join(target.parts)
            raise ValueError(f"parts of a projection ({parts}) take plain LoRA that leaves the base as it is")

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        A, B = self.matrices()
        return F.linear(F.linear(self.lora_dropout(x), A), self.whole(B)) * self.scaling

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        return matmul(self.whole(B).data, A.data) * self.scaling

    def saved_arrays(self) -> dict[str, Array]:
        return {**super().saved_arrays(), "lora_B.weight": self.whole(self.lora_B.weight).data}

    def whole(self, B: Any) -> Tensor:
        """The Parameter (n·C, r) as the full B (out, n·r), zeros filled in; differentiable."""
        n, r = len(self.blocks), B.shape[1]
        C = B.shape[0] // n
        zeros = array_module(B.data).zeros((C, r), B.dtype)
        found = {block: B[i * C : (i + 1) * C] for i, block in enumerate(self.blocks)}
        rows = []
        for row in range(len(self.names)):
            columns = [found[row] if block == row else zeros for block in self.blocks]
            rows.append(concatenate(columns, axis=1))
        return concatenate(rows)
