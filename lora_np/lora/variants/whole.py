"""What the kinds for one setting of `LoraConfig` have in common that act on whole linear layers."""

from typing import Any, NamedTuple

from ... import nn
from ...autograd import Tensor
from ..adapter import Target
from ..init import changes_base
from ..layer import LowRankAdapter
from ..types import Config, Layer


class Sizes(NamedTuple):
    """What the initialisation asks of a layer, for an A and a B that have other sizes than the layer's."""

    out_features: int
    in_features: int
    device: str
    parameters: Any
    fan_in_fan_out: bool = False


class OnWholeLayers(LowRankAdapter):
    """A kind for a linear layer, not for an embedding or a part of a joint projection. Abstract.

    setting       the field of LoraConfig that asks for it
    changes_base  can it go with an initialisation that takes a part out of the base weight?
    """

    setting = ""
    changes_base = False

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """s·B(A(dropout(x))), where a kind has nothing else to say."""
        return self.branch(self.lora_dropout(x))

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        if isinstance(target.layer, nn.Embedding):
            raise ValueError(f"{cls.setting} adapts linear layers; {target.name} is an Embedding")
        if target.parts:
            raise ValueError(f"{cls.setting} adapts whole layers; {target.name}.{target.parts[0]} is a part of one")
        if changes_base(config.init_lora_weights) and not cls.changes_base:
            raise ValueError(f"{cls.setting} does not go with init_lora_weights={config.init_lora_weights!r}")
