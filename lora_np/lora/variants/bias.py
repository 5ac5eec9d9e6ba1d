"""`lora_bias`: the branch has a bias of its own, y = base(x) + s·(B(A(x)) + c)."""

from ... import nn
from ...autograd import Tensor
from ..adapter import Target
from ..layer import LowRankAdapter
from ..types import Array, Config, Layer


class BranchBias(LowRankAdapter):
    """LoRA with a bias c (out,) on B, zero at initialisation. Merging adds s·c to the layer's bias."""

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.lora_B.bias = nn.Parameter(nn.zeros(target.layer.out_features))

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        return config.lora_bias

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        super().check(config, target)
        if target.layer.bias is None:
            kind = type(target.layer).__name__
            raise ValueError(f"lora_bias needs layers with a bias, and a targeted {kind} has none")

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        return self.branch(self.lora_dropout(x)) + self.lora_B.bias * self.scaling

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        return weight + self.delta_weight(), bias + self.lora_B.bias.data * self.scaling
