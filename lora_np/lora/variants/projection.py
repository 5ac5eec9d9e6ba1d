"""Adapting q, k or v alone where the model computes all three in one product, as GPT-2's c_attn does.

The target `c_attn.q` means the first third of c_attn's outputs. Each chosen part has its own A_i (r, in) and
B_i (C, r). That is one adapter on the whole of c_attn, of rank r for each part: A stacks the A_i, and B has B_i where
its part's rows and its A_i's columns meet, zeros elsewhere. In that form it is saved, and PEFT reads it exactly.
"""

from ...autograd import backend, kernels, layout
from ...autograd import functional as F
from ..layer import LowRankAdapter


class PartialProjection(LowRankAdapter):
    """LoRA on some parts of a joint projection. `lora_B` holds only the blocks that are not zero: (n·C, r)."""

    def __init__(self, config, target):
        super().__init__(config, target)
        self.names = target.layer.parts  # of all parts of the projection
        self.blocks = [self.names.index(part) for part in target.parts]

    @classmethod
    def wanted(cls, config, target):
        return bool(target.parts)

    @classmethod
    def check(cls, config, target):
        if config.changes_base or config.use_dora or config.lora_bias:
            parts = ", ".join(target.parts)
            raise ValueError(f"parts of a projection ({parts}) take plain LoRA that leaves the base as it is")

    def update(self, layer, x, base):
        A, B = self.matrices()
        return F.linear(F.linear(self.lora_dropout(x), A), self.whole(B)) * self.scaling

    def delta_weight(self):
        A, B = self.matrices()
        return kernels.matmul(self.whole(B).data, A.data) * self.scaling

    def saved_arrays(self):
        return {**super().saved_arrays(), "lora_B.weight": self.whole(self.lora_B.weight).data}

    def whole(self, B):
        """B (n·C, r) as the full (out, n·r), zeros filled in; differentiable."""
        n, r = len(self.blocks), B.shape[1]
        C = B.shape[0] // n
        zeros = backend.array_module(B.data).zeros((C, r), B.dtype)
        found = {block: B[i * C : (i + 1) * C] for i, block in enumerate(self.blocks)}
        rows = []
        for row in range(len(self.names)):
            columns = [found[row] if block == row else zeros for block in self.blocks]
            rows.append(layout.concatenate(columns, axis=1))
        return layout.concatenate(rows)
