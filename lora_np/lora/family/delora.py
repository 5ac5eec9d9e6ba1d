r"""DeLoRA: the directions of the update are learned apart from its strength. (Bini et al., 2025, eq. 7 and 8.)

    y = base(x) + B(ξ ∘ A(n ∘ dropout(x)))          ΔW = B diag(ξ) A diag(n)
    ξ_i = (λ / r) / (‖a_i‖ ‖b_i‖)                   n_j = ‖W[:, j]‖, fixed when the adapter is made

a_i is row i of A (r, in) and b_i column i of B (out, r). Each of the r terms is a matrix of length 1 before λ/r, so
that without n no training step, however large, takes ΔW further than λ from zero: ‖B diag(ξ) A‖ ≤ λ. n (in,) measures
that against the pretrained weight; the paper has one number, ‖W‖, where PEFT and this file have one for each input.
Trained are A, B and λ, r (in + out) + 1 numbers a layer; the rank of ΔW is at most r, and it merges. B is zero at
first: training starts at the base model. (A length below 1e-4 counts as 1e-4.)

What the paper claims: as good as LoRA at its best, and far less hurt by too high a learning rate or too many steps.
PEFT has it beside Linear layers only; here it is beside Conv1D too.
"""

from dataclasses import dataclass, field

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module
from ...autograd.dispatch import matmul
from ...autograd.shape_ops import where
from ...settings import changed_settings
from ..adapter import Adapter, Target, dtype_beside
from ..base_layer import oriented
from ..patterns import checked_patterns, first_match
from ..peft_config import PeftConfig, PeftType, check_alpha, check_dropout, check_rank, check_ranks
from ..types import Array, Layer

SHORTEST = 1e-4  # what a shorter row of A or column of B counts as


@dataclass
class DeloraConfig(PeftConfig):
    """The settings of a DeLoRA adapter; see `PeftConfig` for the others.

    r               rank
    delora_lambda   the initial λ, which bounds the update
    module_dropout  dropout probability on the branch's input, in training only (single numbers, whatever its name says)
    init_weights    with False B begins like A, and not as zeros
    rank_pattern    {name or regular expression: r} for layers with a rank of their own; the first match counts
    lambda_pattern  {name or regular expression: delora_lambda}, likewise
    """

    peft_type: PeftType | str | None = PeftType.DELORA
    r: int = 8
    delora_lambda: float = 15
    module_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    bias: str = "none"
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    lambda_pattern: dict[str, float] = field(default_factory=dict)
    modules_to_save: list[str] | None = None

    __repr__ = changed_settings
    flags = ("init_weights",)
    patterns = ("rank_pattern", "lambda_pattern")

    def __post_init__(self):
        super().__post_init__()
        check_ranks(self.r)
        check_alpha("delora_lambda", self.delora_lambda)
        check_dropout("module_dropout", self.module_dropout)
        self.rank_pattern = checked_patterns("rank_pattern", self.rank_pattern, check_rank)
        self.lambda_pattern = checked_patterns("lambda_pattern", self.lambda_pattern, check_alpha)

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(r, λ) of the layer with this dotted name."""
        return first_match(self.rank_pattern, name, self.r), first_match(self.lambda_pattern, name, self.delora_lambda)


class DeloraAdapter(Adapter):
    """A, B and λ beside one linear layer, and n, the lengths of the columns of its weight."""

    idle_if_zero = "delora_B"
    reported = "delora.DeloraLinear"

    def __init__(self, config: DeloraConfig, target: Target) -> None:
        layer, self.r = target.layer, target.r
        fan_in, fan_out = layer.in_features, layer.out_features
        B = nn.zeros((fan_out, self.r)) if config.init_weights else nn.uniform((fan_out, self.r), self.r**-0.5)
        self.delora_A = nn.Parameter(nn.uniform((self.r, fan_in), fan_in**-0.5))
        self.delora_B = nn.Parameter(B)
        self.delora_lambda = nn.Parameter(nn.filled(1, target.lora_alpha))
        self.delora_w_norm = nn.Buffer(_column_lengths(layer))
        self.module_dropout = nn.Dropout(config.module_dropout)

    def strengths(self) -> Tensor:
        """ξ (r,)."""
        lengths = _lengths(self.delora_A, 1) * _lengths(self.delora_B, 0)
        return 1 / (lengths * len(self.delora_A)) * self.delora_lambda

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        inner = F.linear(self.module_dropout(x) * self.delora_w_norm, self.delora_A)
        return F.linear(inner * self.strengths(), self.delora_B)

    def delta_weight(self) -> Array:
        B = self.delora_B.data * self.strengths().data
        return matmul(B, self.delora_A.data) * self.delora_w_norm.data


def _lengths(matrix, axis):
    """The Euclidean lengths along an axis, at least SHORTEST. No gradient flows through those that are shorter."""
    squares = (matrix * matrix).sum(axis)
    return where(squares.data > SHORTEST**2, squares, SHORTEST**2).sqrt()


def _column_lengths(layer):
    """n (in,): the length of each column of the weight (out, in)."""
    if nn.is_weightless():
        return nn.filled(layer.in_features, 1.0)
    weight = oriented(layer, layer.weight.data).astype(dtype_beside(layer), copy=False)
    xp = array_module(weight)
    return xp.sqrt((weight * weight).sum(axis=0))
