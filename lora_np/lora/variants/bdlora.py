r"""BD-LoRA: one of A and B is block-diagonal. (Wang et al., 2025, "Block-Diagonal LoRA for Eliminating
Communication Overhead in Tensor Parallel LoRA Serving".)

    y = base(x) + s·B(A(dropout(x))),    ΔW = s·B A,    A = diag(A₁, ..., A_n)   or   B = diag(B₁, ..., B_n)

On several GPUs a layer's W is cut along its inputs (o_proj, down_proj) or its outputs (q_proj, up_proj). With A, or B,
in as many blocks each GPU needs its own block alone, and the adapters of many users cost no communication beyond the
base model's. The paper's claim is that a 70B model is served up to 1.8 times as fast as with plain LoRA cut apart, at
like quality for like numbers of parameters.

`lora_A` holds the A_i (r/n, in/n) one below the other, (r, in/n), and `lora_B` the B_i, (out, r/n). So a layer trains
r (in/n + out), or r (in + out/n), numbers for an update of rank r, which is merged. PEFT's cannot be on GPT-2's Conv1D.
"""

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import to_device
from ...autograd.shape_ops import concatenate
from ..adapter import Matrix, Target
from ..types import Config
from .whole import OnWholeLayers


class BlockDiagonal(OnWholeLayers):
    """LoRA of which A or B has blocks, or where `match_strict` is off and no name matches, neither."""

    setting = "use_bdlora"

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.side, n = _side(config, target.name), config.use_bdlora.nblocks
        self.blocks, layer = n, target.layer
        if self.side == "A":
            self.lora_A = Matrix(nn.uniform((self.r, layer.in_features // n), (6 * n / layer.in_features) ** 0.5))
        elif self.side == "B":
            self.lora_B = Matrix(nn.zeros((layer.out_features, self.r // n)))

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        super().check(config, target)
        side, n, layer = _side(config, target.name), config.use_bdlora.nblocks, target.layer
        if side is None and config.use_bdlora.match_strict:
            raise ValueError(
                f"use_bdlora: {target.name} is in neither target_modules_bd_a nor target_modules_bd_b; with "
                "match_strict=False it gets plain LoRA"
            )
        width = {"A": layer.in_features, "B": layer.out_features, None: n}[side]
        if side and (target.r % n or width % n):
            raise ValueError(f"use_bdlora: {target.name} of width {width} and rank {target.r} has no {n} equal blocks")

    def matrices(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(A (r, in), B (out, r)), the zeros beside the blocks filled in; differentiable."""
        A, B = self.lora_A.weight, self.lora_B.weight
        return self._whole(A) if self.side == "A" else A, self._whole(B) if self.side == "B" else B

    def _whole(self, blocks):
        """Blocks one below the other (rows, columns) as the matrix (rows, n·columns) that has them on its diagonal."""
        rows, columns = blocks.shape
        diagonal = np.kron(np.eye(self.blocks), np.ones((rows // self.blocks, columns))).astype(blocks.dtype)
        return concatenate([blocks] * self.blocks, axis=1) * to_device(diagonal, blocks.device)


def _side(config, name):
    """Which of the two has blocks in the layer of this dotted name, "A", "B" or None. ValueError if both are to."""
    given = {"A": config.use_bdlora.target_modules_bd_a, "B": config.use_bdlora.target_modules_bd_b}
    sides = [side for side, parts in given.items() if any(part in name for part in parts or ())]
    if len(sides) > 1:
        raise ValueError(f"use_bdlora: {name} is in both target_modules_bd_a and target_modules_bd_b")
    return sides[0] if sides else None
