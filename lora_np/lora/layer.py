r"""The idea, in one layer: y = x Wᵀ + b + s·B(A(dropout(x))).

W stays as it was pretrained. The update ΔW = s·B A has rank r: A (r, in) looks at the input in r directions, B (out, r)
says what each of them adds to the output. Only A and B are trained. A starts random and B zero (`init.py`), so that
training starts exactly at the base model. (Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models",
section 4.1.)
"""

from .. import nn
from ..autograd import functional as F
from .adapted import AdaptedLayer, Matrix


class LoraLinear(AdaptedLayer):
    """A Linear or Conv1D with adapters beside it. The layer is held as `base_layer`, not copied and not subclassed.

    Each adapter has a name and its own A, B, scaling and dropout. The active ones add up. Shapes do not depend
    on how the base layer stores its weight: A is always (r, in), B (out, r).
    """

    prefix, suffix = "lora_", ".weight"  # of an adapter's names in a file

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.can_fuse = isinstance(base_layer, (nn.Linear, nn.Conv1D))  # a 4-bit weight exists only while it is used
        self.lora_dropout, self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()

    def _set_matrices(self, name, A, B, dropout):
        self.lora_A[name], self.lora_B[name] = Matrix(A), Matrix(B)
        self.lora_dropout[name] = nn.Dropout(dropout)

    def matrices(self, name):
        return self.lora_A[name].weight, self.lora_B[name].weight

    def forward_with(self, names, x):
        """y = base(x) + Σ s·B(A(dropout(x))) over these adapters. x (..., in) -> (..., out)."""
        if self.can_fuse and len(names) == 1 and names[0] not in self.variants:
            return self._fused(names[0], x)
        y = base = self.base_layer(x)
        for name in names:
            y = y + self.update(name, x, base)
        return y

    def update(self, name, x, base):
        """What one adapter adds to the base layer's result `base`: s·B(A(dropout(x))), or what its variant says."""
        if name in self.variants:
            return self.variants[name].update(self, name, x, base)
        return self.branch(name, self.lora_dropout[name](x))

    def branch(self, name, x):
        """s·B(A(x))."""
        h = F.linear(x, self.lora_A[name].weight)  # (..., r)
        return F.linear(h, self.lora_B[name].weight) * self.scaling[name]

    def _fused(self, name, x):
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
