"""What LoHa and LoKr have in common: their settings, and two ways to drop parts of the update in training.

The collection and its name: Yeh et al., 2023, "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to
Model Evaluation".
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import array_module
from ...autograd.random import generator
from ..adapter import Adapter, Target
from ..patterns import checked_patterns, first_match
from ..peft_config import PeftConfig, check_alpha, check_dropout, check_rank
from ..types import ABSENT, Array, Layer


@dataclass
class LycorisConfig(PeftConfig):
    """The settings that both have; see `PeftConfig` for the others. Abstract.

    rank_pattern     {name or regular expression: r} for layers with a rank of their own; the first match counts
    alpha_pattern    {name or regular expression: alpha}, likewise
    r                rank of the small matrices
    alpha            the update is scaled by alpha / r
    rank_dropout     probability with which, in training, an output of the update is set to 0
    module_dropout   probability with which, in training, a layer's whole update is left out
    exclude_modules  which of the target_modules are left out after all
    use_effective_conv2d   for convolutions with larger kernels, which are not here; it changes no linear layer
    """

    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    flags: ClassVar[tuple[str, ...]] = ("use_effective_conv2d",)
    alpha = rank_dropout = module_dropout = ABSENT  # fields of the subclasses, in PEFT's order

    def __post_init__(self):
        self.rank_pattern = checked_patterns("rank_pattern", self.rank_pattern, check_rank)
        self.alpha_pattern = checked_patterns("alpha_pattern", self.alpha_pattern, check_alpha)
        check_rank("r", self.r)
        check_alpha("alpha", self.alpha)
        for name in ("rank_dropout", "module_dropout"):
            check_dropout(name, getattr(self, name))
        super().__post_init__()

    @property
    def lora_alpha(self) -> float:
        """alpha, under the name that it has for LoRA."""
        return self.alpha

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(r, alpha) of the layer with this dotted name."""
        return first_match(self.rank_pattern, name, self.r), first_match(self.alpha_pattern, name, self.alpha)


class LycorisAdapter(Adapter):
    """y = base(x) + s·ΔW x, s = alpha / r. Abstract: subclasses have `product`, which is ΔW x, and `delta_weight`.

    In training, each output of the update is 0 with the probability `rank_dropout` (a row of ΔW is left out), and all
    of it is with `module_dropout`: masks of a layer's weight, not of its inputs, so one batch has one mask.
    """

    r: int
    lora_alpha: float
    rescaled = True  # are the outputs that are left divided by the fraction that they are?

    def __init__(self, config: Any, target: Target) -> None:
        self.r, self.lora_alpha, self.scaling = target.r, target.lora_alpha, target.lora_alpha / target.r
        self.rank_dropout, self.module_dropout = nn.Dropout(config.rank_dropout), nn.Dropout(config.module_dropout)
        self.draws = bool(config.rank_dropout or config.module_dropout)

    def product(self, x: Tensor) -> Tensor:
        """s·ΔW x. x (..., in) -> (..., out)."""
        raise NotImplementedError

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        update = self.product(x)
        return update * self._mask(update) if self.rank_dropout.training and self.rank_dropout.p else update

    def applied(self, layer: Layer, x: Tensor, base: Tensor, y: Any) -> Tensor:
        """y + update, or y, if this time the layer is left out."""
        p = self.module_dropout.p if self.module_dropout.training else 0.0
        return y if p and generator().random(dtype=np.float32) <= p else y + self.update(layer, x, base)

    def _mask(self, like: Tensor) -> Array:
        """(out,): 0 for the outputs that are left out. (PEFT divides by zero where that is all of them.)"""
        xp, width = array_module(like.data), like.shape[-1]
        mask = (generator(xp).random(width, dtype=np.float32) > self.rank_dropout.p).astype(like.dtype)
        return mask / xp.maximum(mask.mean(), 1 / width) if self.rescaled else mask

    def rescale(self, factor: float) -> None:
        """s = factor · alpha / r."""
        self.scaling = factor * self.lora_alpha / self.r


def kaiming(rows: int, columns: int) -> Array:
    """A (rows, columns) matrix, uniform in ±1/√columns."""
    return nn.uniform((rows, columns), columns**-0.5)
