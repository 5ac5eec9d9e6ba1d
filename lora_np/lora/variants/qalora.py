r"""QA-LoRA: the update is the same for all weights of a group, so that it goes into 4-bit zero points without a loss.
(Xu et al., 2024, "QA-LoRA: Quantization-Aware Low-Rank Adaptation of Large Language Models", section 3.3.)

    y = base(x) + s·B(A(p)),   p_j = L · mean of the g inputs of group j,   L = in / g
    ΔW = s · (L / g) · (B A), each column g times

A (r, L) and B (out, r): r (in / g + out) numbers are trained, fewer than LoRA's; the update has rank r. In a base of
groups w = scale · (code - zero), whose groups lie in QA-LoRA's, `nn.quantize_model(model, group_size=...)`, merging is
zero - ΔW / scale: exact, and the merged layer is still in 4 bits. A float base takes ΔW as it is; NF4, which has no
zero points, is rounded again. The paper's claim is that this beats QLoRA quantised again after merging, most in 2 and
3 bits.

PEFT has it beside GPTQ's layers alone, without merging; beside others it takes no notice of use_qalora.
"""

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import array_module
from ...autograd.dispatch import matmul
from ..adapter import Target
from ..base_layer import oriented
from ..types import Array, Config, Layer
from .whole import OnWholeLayers, Sizes


class QaLora(OnWholeLayers):
    """LoRA on inputs that are averaged in groups of `qalora_group_size`."""

    setting = "use_qalora"

    def __init__(self, config: Config, target: Target) -> None:
        layer, self.group_size = target.layer, config.qalora_group_size
        sizes = Sizes(layer.out_features, layer.in_features // self.group_size, layer.device, layer.parameters)
        super().__init__(config, target._replace(layer=sizes))

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        super().check(config, target)
        g, fan_in = config.qalora_group_size, target.layer.in_features
        if fan_in % g:
            raise ValueError(f"qalora_group_size={g} does not divide the {fan_in} inputs of {target.name}")

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        groups = self.lora_dropout(x).reshape(*x.shape[:-1], -1, self.group_size)  # (..., L, g)
        return self.branch(groups.mean(axis=-1) * groups.shape[-2])

    def _of_groups(self):
        """ΔW with each column once, (out, L)."""
        A, B = self.matrices()
        return matmul(B.data, A.data) * (self.scaling * A.shape[1] / self.group_size)

    def delta_weight(self) -> Array:
        found = self._of_groups()
        return array_module(found).repeat(found, self.group_size, axis=1)

    def can_merge_into(self, layer: Layer) -> bool:
        grouped = isinstance(layer, nn.GroupedLinear4bit) and self.group_size % layer.group_size == 0
        return grouped or super().can_merge_into(layer)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        if not isinstance(layer, nn.GroupedLinear4bit):
            return super().merged(layer, weight, bias)
        found, zeros = self._of_groups(), oriented(layer, weight)
        steps = array_module(found).repeat(found, self.group_size // layer.group_size, axis=1)
        return oriented(layer, zeros - steps / layer.weight_scale.data), bias
