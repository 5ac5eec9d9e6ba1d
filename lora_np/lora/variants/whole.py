"""What the kinds for one setting of `LoraConfig` have in common that act on whole linear layers."""

from ... import nn
from ..adapter import Target
from ..layer import LowRankAdapter
from ..types import Config


class OnWholeLayers(LowRankAdapter):
    """A kind for a linear layer, not for an embedding or a part of a joint projection. Abstract.

    setting   the field of LoraConfig that asks for it
    """

    setting = ""

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        if isinstance(target.layer, nn.Embedding):
            raise ValueError(f"{cls.setting} adapts linear layers; {target.name} is an Embedding")
        if target.parts:
            raise ValueError(f"{cls.setting} adapts whole layers; {target.name}.{target.parts[0]} is a part of one")
