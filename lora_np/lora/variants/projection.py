"""Adapting q, k or v alone where the model computes all three in one product, as GPT-2's c_attn does.

The target `c_attn.q` means the first of c_attn's parts (`nn.Linear.parts`: the model's class says which there are, and
how wide they are). Each of the n chosen parts has its own A_i (r, in) and B_i (its width, r). Together they are one
adapter of rank n·r on the whole of c_attn: A stacks the A_i, and B (out, n·r) has B_i in its part's rows and its A_i's
columns, zeros elsewhere. In that form it is saved, and PEFT reads it exactly.
"""

from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module, to_numpy
from ...autograd.dispatch import matmul
from ...autograd.shape_ops import concatenate
from ..adapter import Target
from ..layer import LowRankAdapter
from ..types import Array, Config, Layer


class PartialProjection(LowRankAdapter):
    """LoRA on n parts of a joint projection. `lora_B` holds only the blocks B_i, one below the other."""

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.names = target.layer.parts  # {name: width} of all parts of the projection
        self.groups = getattr(self.names, "groups", 1)  # in how many pieces their rows lie among each other
        self.chosen = target.parts

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return bool(target.parts)

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        special = config.changes_base or config.init_lora_weights in ("eva", "mica")
        if special or config.use_dora or config.lora_bias:
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

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        """The blocks B_i of a B (out, n·r) that is whole, as a file has it. ValueError if it has others too."""
        name = f"{prefix}lora_B.weight"
        own, B = self.lora_B.weight, arrays.get(name)
        if B is None or B.shape != (sum(self.names.values()), len(self.chosen) * own.shape[1]):
            return
        numbered = np.arange(1.0, own.size + 1).reshape(own.shape)  # whole, they say which entry of B is which here
        places, B = self.whole(Tensor(numbered)).data.astype(int), to_numpy(B)
        if B[places == 0].any():
            raise ValueError(f"{name} is for more than the parts {', '.join(self.chosen)}")
        blocks = np.empty(own.size, B.dtype)
        blocks[places[places > 0] - 1] = B[places > 0]
        arrays[name] = blocks.reshape(own.shape)

    def pairs(self) -> list[tuple[slice, slice]]:
        """[(rows of A, rows of lora_B)]: those of each A_i and its B_i."""
        r = self.lora_B.weight.shape[1]
        ends = np.cumsum([0, *(self.names[part] for part in self.chosen)]).tolist()
        return [(slice(i * r, (i + 1) * r), slice(*ends[i : i + 2])) for i in range(len(self.chosen))]

    def whole(self, B: Any) -> Tensor:
        """The Parameter with the blocks B_i as the full B (out, n·r), zeros filled in; differentiable."""
        r, xp = B.shape[1], array_module(B.data)
        found = {part: B[rows] for part, (_, rows) in zip(self.chosen, self.pairs(), strict=True)}
        rows = []
        for part, width in self.names.items():
            columns = [found[part] if other == part else xp.zeros((width, r), B.dtype) for other in self.chosen]
            rows.append(concatenate(columns, axis=1))
        whole = concatenate(rows)
        if self.groups == 1:
            return whole
        pieces = whole.reshape(len(rows), self.groups, -1, whole.shape[1])
        return pieces.swapaxes(0, 1).reshape(whole.shape)
