r"""The idea, in one layer: y = x Wᵀ + b + s·B(A(dropout(x))).

W stays as it was pretrained. The update ΔW = s·B A has rank r: A (r, in) looks at the input in r directions, B (out, r)
says what each of them adds to the output. Only A and B are trained. (Hu et al., 2021, "LoRA: Low-Rank
Adaptation of Large Language Models", section 4.1.)
"""

import numpy as np

from .. import nn
from ..autograd import backend
from ..autograd import functional as F
from .init import init_lora


class LoraLinear(nn.Module):
    """A Linear or Conv1D with adapters beside it. The layer is held as `base_layer`, not copied and not subclassed.

    Each adapter has a name and its own A, B, scaling and dropout. The active ones add up. Shapes do not depend
    on how the base layer stores its weight: A is always (r, in), B (out, r).
    """

    def __init__(self, base_layer):
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.lora_dropout, self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.r, self.lora_alpha, self.scaling = {}, {}, {}
        self.active_adapters = []
        self.adapters_disabled = False
        self.merged_adapters = []
        self._unmerged_weight = None

    def add_adapter(self, name, config):
        """Give the layer an adapter, in the state its config says; it is not active yet."""
        A, B = init_lora(config.init_lora_weights, config.r, self.in_features, self.out_features)
        weight = self.base_layer.weight
        dtype = np.float64 if weight.dtype == np.float64 else np.float32
        for parts, array in ((self.lora_A, A), (self.lora_B, B)):
            parts[name] = LoraMatrix(backend.to_device(array.astype(dtype), weight.device))
        self.lora_dropout[name] = nn.Dropout(config.lora_dropout)
        self.lora_dropout[name].train(self.training)
        self.r[name], self.lora_alpha[name], self.scaling[name] = config.r, config.lora_alpha, config.scaling

    def delete_adapter(self, name):
        """Forget an adapter."""
        for parts in (self.lora_A, self.lora_B, self.lora_dropout, self.r, self.lora_alpha, self.scaling):
            del parts[name]
        self.active_adapters = [other for other in self.active_adapters if other != name]

    def forward(self, x):
        """y = base(x) + Σ s·B(A(dropout(x))) over the active adapters. x (..., in) -> (..., out)."""
        adapters = [] if self.adapters_disabled or self.merged_adapters else self.active_adapters
        if len(adapters) == 1:
            return self._forward_with(adapters[0], x)
        y = self.base_layer(x)
        for name in adapters:
            y = y + self._branch(name, x)
        return y

    def _branch(self, name, x):
        """s·B(A(dropout(x))): what one adapter adds."""
        h = F.linear(self.lora_dropout[name](x), self.lora_A[name].weight)  # (..., r)
        return F.linear(h, self.lora_B[name].weight) * self.scaling[name]

    def _forward_with(self, name, x):
        """base(x) plus one adapter's branch as a single primitive: the usual case, with one pass less over y."""
        base, dropout = self.base_layer, self.lora_dropout[name]
        return F.lora_linear(
            x,
            base.weight,
            base.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
            base.fan_in_fan_out,
            dropout.p if dropout.training else 0.0,
        )

    def get_delta_weight(self, name):
        """ΔW = s·B A in the base weight's orientation: (out, in), or (in, out) for a Conv1D. At least float32."""
        A, B = self.lora_A[name].weight.data, self.lora_B[name].weight.data
        delta = (B @ A) * self.scaling[name]
        return delta.T if self.base_layer.fan_in_fan_out else delta

    def merged_weight(self):
        """W + Σ ΔW over the active adapters, summed in float32 or better and rounded once to W's own dtype."""
        weight = self.base_layer.weight.data
        merged = weight.astype(np.result_type(weight.dtype, np.float32))
        for name in self.active_adapters:
            merged += self.get_delta_weight(name)
        return merged.astype(weight.dtype, copy=False)

    def merge(self, merged_weight):
        """Put `merged_weight` in the place of W: from now on the layer costs what it did without LoRA.

        The old array is kept, so that `unmerge` gives it back bit for bit.
        """
        self._unmerged_weight, self.base_layer.weight.data = self.base_layer.weight.data, merged_weight
        self.merged_adapters = list(self.active_adapters)

    def unmerge(self):
        """Put back the weight from before `merge`, the very same array."""
        if self.merged_adapters:
            weight = self.base_layer.weight  # the model may have moved since
            weight.data = backend.to_device(self._unmerged_weight, weight.device).astype(weight.dtype, copy=False)
            self._unmerged_weight, self.merged_adapters = None, []


class LoraMatrix(nn.Module):
    """One of an adapter's two matrices, a module of its own so that its name ends in `.weight`, as in PEFT's files."""

    def __init__(self, array):
        self.weight = nn.Parameter(array)
