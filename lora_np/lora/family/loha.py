r"""LoHa: the update is the Hadamard (entrywise) product of two low-rank matrices.

    y = base(x) + s·(B₁A₁ ∘ B₂A₂) x          ΔW = s·(B₁A₁ ∘ B₂A₂),   s = alpha / r

B₁, B₂ (out, r) and A₁, A₂ (r, in): 2 r (in + out) numbers are trained, twice LoRA's. The rank of ΔW is at most r²,
where LoRA has 2 r for as many numbers: (Σᵢ bᵢaᵢᵀ) ∘ (Σⱼ b'ⱼa'ⱼᵀ) = Σᵢⱼ (bᵢ ∘ b'ⱼ)(aᵢ ∘ a'ⱼ)ᵀ has r² terms. The price is
that ΔW (out, in) is formed in each step, where LoRA computes B(A x). A₂ is zero at first, so that training starts at
the base model. It merges.

Source: Hyeon-Woo et al., 2022, "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning",
proposition 1. Its claim: the accuracy of the full layers with 3 to 10 times less to send. As an adapter it comes from
LyCORIS (see `lycoris.py`).

PEFT has no LoHa beside GPT-2's Conv1D; here ΔW is turned for it, as everywhere.
"""

from dataclasses import dataclass

from ... import nn
from ...autograd import Tensor, ops
from ...autograd import functional as F
from ...autograd.dispatch import matmul
from ...settings import changed_settings
from ..adapter import Target
from ..peft_config import PeftType
from ..types import Array
from .lycoris import LycorisAdapter, LycorisConfig, kaiming


@dataclass
class LoHaConfig(LycorisConfig):
    """The settings of a LoHa adapter; see `LycorisConfig`.

    init_weights   True: A₂ is zero and the others are random. False: all are
    """

    peft_type: PeftType | str | None = PeftType.LOHA
    r: int = 8
    alpha: float = 8
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    use_effective_conv2d: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    __repr__ = changed_settings
    flags = (*LycorisConfig.flags, "init_weights")


class LoHaAdapter(LycorisAdapter):
    """B₁, A₁, B₂, A₂ beside one linear layer: `hada_w1_a`, `hada_w1_b`, `hada_w2_a`, `hada_w2_b`."""

    idle_if_zero = "hada_w2_b"

    def __init__(self, config: LoHaConfig, target: Target) -> None:
        super().__init__(config, target)
        r, fan_in, fan_out = target.r, target.layer.in_features, target.layer.out_features
        self.hada_w1_a, self.hada_w1_b = nn.Parameter(kaiming(fan_out, r)), nn.Parameter(kaiming(r, fan_in))
        self.hada_w2_a = nn.Parameter(kaiming(fan_out, r))
        self.hada_w2_b = nn.Parameter(nn.zeros((r, fan_in)) if config.init_weights else kaiming(r, fan_in))

    def product(self, x: Tensor) -> Tensor:
        """s·(B₁A₁ ∘ B₂A₂) x."""
        weight = ops.matmul(self.hada_w1_a, self.hada_w1_b) * ops.matmul(self.hada_w2_a, self.hada_w2_b)
        return F.linear(x, weight * self.scaling)

    def delta_weight(self) -> Array:
        first = matmul(self.hada_w1_a.data, self.hada_w1_b.data)
        return first * matmul(self.hada_w2_a.data, self.hada_w2_b.data) * self.scaling
