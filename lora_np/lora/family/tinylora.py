r"""TinyLoRA: a handful of numbers in all. (Morris et al., 2026, "Learning to Reason in 13 Parameters", section 4; on
LoRA-XS, Bałazy et al., 2024.)

    y = base(x) + B(R(A(dropout(x))))          ΔW = B R A,    R = Σ_i v_i P_i

A (r, in) and B (out, r) are frozen: √S Vᵀ and U √S of the r largest singular values of W = U S Vᵀ, so that ΔW is made
of directions that W has. P_i (r, r) are frozen too, normal with the variance 1/r. Trained is v (u,), which layers may
share: of n layers each has its own with `weight_tying` 0, all have one with 1, and in between the layers that follow
one another form round(n (1 - weight_tying)) groups. That is u numbers for each group, where LoRA has r (in + out) for
each layer. The rank of ΔW is at most r, and it merges. v is zero at first: training starts at the base model.

What the paper claims: with 13 numbers, trained by reinforcement learning, a model of 8 billion learns to solve 91 % of
GSM8K; by supervised examples it takes a hundred to a thousand times as many.

The file has A, B and P beside v. In an embedding, ΔW (vocabulary, dim) = B R A, with B (vocabulary, r) and A (r, dim).
"""

from dataclasses import dataclass
from typing import Any

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import to_numpy
from ...autograd.dispatch import matmul
from ...autograd.random import random_seed
from ...autograd.shape_ops import embedding, transpose
from ...settings import changed_settings
from ..adapter import Adapter, Target, dtype_beside
from ..base_layer import oriented
from ..init import pissa
from ..patterns import shortened
from ..peft_config import PeftConfig, PeftType, check_alpha, check_dropout, check_rank, check_ranks
from ..types import Array, Input, Layer


@dataclass
class TinyLoraConfig(PeftConfig):
    """The settings of a TinyLoRA adapter; see `PeftConfig` for the others.

    r                 rank; where a weight has a smaller one, that
    u                 how many numbers each v has
    weight_tying      from 0, each layer has a v of its own, to 1, all share one
    projection_seed   P follows from it and from the layer's place; it is saved too, as other libraries draw others
    init_v_bound      v is uniform in ± this, with init_weights="uniform"
    tinylora_dropout  dropout probability on the branch's input (of an embedding: on the row of B), in training only
    init_weights      True: v is zero; "uniform"; False: "uniform" too, where PEFT leaves v as the memory was
    """

    peft_type: PeftType | str | None = PeftType.TINYLORA
    r: int = 2
    u: int = 64
    weight_tying: float = 0.0
    projection_seed: int = 42
    save_projection: bool = True
    init_v_bound: float = 0.02
    target_modules: list[str] | str | None = None
    tinylora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    init_weights: bool | str = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    __repr__ = changed_settings
    flags = ("fan_in_fan_out", "save_projection")

    def __post_init__(self):
        super().__post_init__()
        check_ranks(self.r)
        check_rank("u", self.u)
        check_dropout("tinylora_dropout", self.tinylora_dropout)
        check_alpha("init_v_bound", self.init_v_bound)
        check_alpha("weight_tying", self.weight_tying)
        if not 0 <= self.weight_tying <= 1:
            raise ValueError(f"weight_tying must be from 0 to 1, got {self.weight_tying!r}")
        seed = self.projection_seed
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"projection_seed must be an integer of at least 0, got {shortened(seed)}")
        if not isinstance(self.init_weights, bool) and self.init_weights != "uniform":
            raise ValueError(f"init_weights must be True, False or 'uniform', got {shortened(self.init_weights)}")
        if not self.save_projection:
            raise ValueError("save_projection=False: P must be saved, as each library draws another from the seed")


class Vectors(nn.ParameterDict):
    """The v of all groups, "0", "1", ...  order: {layer's name: (its place among the adapted layers, its group)}"""

    order: dict[str, tuple[int, str]]


class TinyLoraAdapter(Adapter):
    """The frozen A, B and P beside one linear layer or embedding; its v is one of `tinylora_v`, which all share."""

    in_common = ("tinylora_v",)

    def __init__(self, config: TinyLoraConfig, target: Target) -> None:
        shared: Any = target.shared or self.shared(config, [target])
        self.tinylora_v: Vectors = shared["tinylora_v"]
        place, self.group = self.tinylora_v.order[target.name]
        A, B = _factors(target)
        self.r = len(A)
        with random_seed(config.projection_seed + place):
            P = nn.normal((config.u, self.r, self.r), self.r**-0.5)
        P = P if nn.is_weightless() else P.astype(dtype_beside(target.layer), copy=False)
        self.tinylora_A, self.tinylora_B, self.tinylora_P = nn.Buffer(A), nn.Buffer(B), nn.Buffer(P)
        self.tinylora_dropout = nn.Dropout(config.tinylora_dropout)
        self.of_rows = isinstance(target.layer, nn.Embedding)

    @classmethod
    def check(cls, config: TinyLoraConfig, target: Target) -> None:
        if not isinstance(target.layer, nn.Embedding):
            super().check(config, target)

    @classmethod
    def shared(cls, config: TinyLoraConfig, targets: list[Target]) -> dict[str, Any]:
        count = max(1, round(len(targets) * (1 - config.weight_tying)))
        size = len(targets) // count
        vectors = Vectors()
        vectors.order = {target.name: (i, str(min(i // size, count - 1))) for i, target in enumerate(targets)}
        for group in range(count):
            zero = config.init_weights is True
            v = nn.zeros(config.u) if zero else nn.uniform(config.u, config.init_v_bound)
            vectors[str(group)] = nn.Parameter(v)
        return {"tinylora_v": vectors}

    def mixing(self) -> Tensor:
        """R (r, r) = Σ_i v_i P_i."""
        v, P = self.tinylora_v[self.group], self.tinylora_P.data
        return (v.reshape(1, -1) @ P.reshape(len(P), -1)).reshape(P.shape[1:])

    def update(self, layer: Layer, x: Input, base: Tensor) -> Tensor:
        A, B, R = self.tinylora_A.data, self.tinylora_B.data, self.mixing()
        if self.of_rows:
            return F.linear(F.linear(self.tinylora_dropout(embedding(B, x)), transpose(R)), A.T)
        return F.linear(F.linear(F.linear(self.tinylora_dropout(x), A), R), B)

    def delta_weight(self) -> Array:
        found: Array = matmul(self.tinylora_B.data, matmul(self.mixing().data, self.tinylora_A.data))
        return found.T if self.of_rows else found


def _factors(target: Target) -> tuple[Array, Array]:
    """(√S Vᵀ (r, in), U √S (out, r)) of the weight (out, in), of an embedding's (vocabulary, dim): see `init.pissa`."""
    layer = target.layer
    embeds = isinstance(layer, nn.Embedding)
    shape = layer.weight.shape if embeds else (layer.out_features, layer.in_features)
    r = min(target.r, *shape)
    if nn.is_weightless():
        return nn.zeros((r, shape[1])), nn.zeros((shape[0], r))
    weight = layer.weight.data if embeds else oriented(layer, layer.weight.data)
    return pissa(to_numpy(weight).astype(dtype_beside(layer), copy=False), r, 1.0)
