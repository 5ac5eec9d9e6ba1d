"""`lora_bias`: the branch has a bias of its own, y = base(x) + s·(B(A(x)) + c)."""

from ... import nn
from ...autograd import Tensor
from ...refusals import warn
from ..adapter import Target
from ..layer import LowRankAdapter
from ..types import Array, Config, Layer


class BranchBias(LowRankAdapter):
    """LoRA with a bias c (out,) on B, zero at initialisation. Merging adds s·c to the layer's bias.

    Beside a layer that has no bias it works too, as in PEFT, but cannot be merged.
    """

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.lora_B.bias = nn.Parameter(nn.zeros(target.layer.out_features))
        if target.layer.bias is None and not nn.is_weightless():
            kind = type(target.layer).__name__
            warn(f"lora_bias: a targeted {kind} has no bias that it could be merged into")

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return config.lora_bias

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        return self.branch(self.lora_dropout(x)) + self.lora_B.bias * self.scaling

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        if bias is None:
            raise ValueError("lora_bias cannot be merged into a layer that has no bias: use the adapter as it is")
        return weight + self.delta_weight(), bias + self.lora_B.bias.data * self.scaling
