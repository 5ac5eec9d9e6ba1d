r"""(IA)³: each activation is scaled by one trained number. (Liu et al., 2022, "Few-Shot Parameter-Efficient
Fine-Tuning is Better and Cheaper than In-Context Learning", section 3.3.)

    y = l ∘ base(x)                  W' = diag(l) W, b' = l ∘ b      ΔW = (diag(l) - I) W
    y = base(l ∘ x)                  W' = W diag(l)                  ΔW = W (diag(l) - I)      in feed-forward layers

l is one at first: training starts at the base model, bit for bit. Keys and values are scaled where they come out, the
hidden activations of a feed-forward block where they go into its last layer. Trained are out numbers in a layer (in a
feed-forward one: in numbers), LoRA of rank r trains r (in + out). ΔW has full rank, yet few degrees of freedom: rows or
columns of W get longer or shorter, none gets another direction. It merges, into the bias too.

Claimed: with T0 of 11B, trained on few examples and two more losses, better than GPT-3 175B with the examples in its
context, at 0.01 % of the parameters.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ... import nn
from ...autograd import Tensor
from ...settings import changed_settings
from ..adapter import Target
from ..patterns import check_names
from ..peft_config import PeftConfig, PeftType, model_type_of
from ..types import Array, Input, Layer
from .multiplicative import Multiplicative

KEYS_AND_VALUES, QUERIES_AND_VALUES = ["k_proj", "v_proj", "down_proj"], ["q_proj", "v_proj", "down_proj"]
TARGETS = {  # {model_type: target_modules}, as in PEFT
    "gpt2": ["c_attn", "mlp.c_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    **dict.fromkeys(("llama", "mistral"), KEYS_AND_VALUES),
    **dict.fromkeys(("qwen2", "qwen3", "gemma2", "gemma3_text"), QUERIES_AND_VALUES),
}
FEEDFORWARD = {kind: names[-1:] for kind, names in TARGETS.items()}


@dataclass
class IA3Config(PeftConfig):
    """The settings of an (IA)³ adapter; see `PeftConfig` for the others.

    feedforward_modules  which of the target_modules are scaled at their input: a list of names, by which a module's
                         dotted name ends, or a regular expression; None for the model's usual one
    init_ia3_weights     l is one at first; False: normal, which is no useful start
    """

    peft_type: PeftType | str | None = PeftType.IA3
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    feedforward_modules: list[str] | str | None = None
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    init_ia3_weights: bool = True

    __repr__ = changed_settings
    flags = ("fan_in_fan_out", "init_ia3_weights")
    usual_targets = TARGETS

    def __post_init__(self):
        super().__post_init__()
        self.feedforward_modules = check_names("feedforward_modules", self.feedforward_modules)
        others = self._no_targets()
        if others:
            raise ValueError(
                f"feedforward_modules has {', '.join(others)}, which target_modules has not: name it there"
            )

    def _no_targets(self):
        """The names in feedforward_modules that are not in target_modules, where both are lists."""
        names, targets = self.feedforward_modules, self.target_modules
        both = isinstance(names, list) and isinstance(targets, list)
        return [name for name in names if name not in targets] if both else []

    def settle(self, model: Any) -> None:
        super().settle(model)
        if self.feedforward_modules is None:
            kind = model_type_of(model)
            if kind not in FEEDFORWARD:
                raise ValueError(
                    f"no usual feedforward_modules are known for a model of type {kind!r}: name them, or [] for none"
                )
            self.feedforward_modules = list(FEEDFORWARD[kind])
            if self._no_targets() or isinstance(self.target_modules, str):  # a list must be among the targets in files
                self.feedforward_modules = rf".*({'|'.join(map(re.escape, FEEDFORWARD[kind]))})"

    def united(self, layers: Mapping[str, Any]) -> Self:
        """One like this for just these {layer: IA3Adapter}, as `add_weighted_adapter` makes."""
        names = [name for name, adapter in layers.items() if adapter.feedforward]
        others: dict[str, Any] = dict.fromkeys(("exclude_modules", "modules_to_save"))
        return dataclasses.replace(self, target_modules=list(layers), feedforward_modules=names, **others)

    def is_feedforward(self, name: str) -> bool:
        """Is the layer with this dotted name scaled at its input?"""
        names = self.feedforward_modules or ()
        if isinstance(names, str):
            return re.fullmatch(names, name) is not None
        return any(name.endswith(ending) for ending in names)


class IA3Adapter(Multiplicative):
    """l, `ia3_l` (out, 1), or (1, in) in a feed-forward layer, beside one linear layer."""

    adds_up = True
    reported = "Linear"
    ia3_l: Any  # a Parameter

    def __init__(self, config: IA3Config, target: Target) -> None:
        super().__init__(config, target)
        self.feedforward = config.is_feedforward(target.name)
        shape = (1, target.layer.in_features) if self.feedforward else (target.layer.out_features, 1)
        self.ia3_l = nn.Parameter(nn.filled(shape, 1.0) if config.init_ia3_weights else nn.normal(shape, 1.0))

    def changed_input(self, x: Input) -> Input:
        return (x * self.ia3_l.reshape(-1)).astype(x.dtype) if self.feedforward else x

    def applied(self, layer: Layer, x: Input, base: Tensor, y: Any) -> Any:
        return y if self.feedforward else y * self.ia3_l.reshape(-1)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """W and, unless it is the input that is scaled, the bias, times l."""
        scales = self.ia3_l.data
        return weight * scales, bias if self.feedforward or bias is None else bias * scales[:, 0]
