r"""HiRA: the update multiplies each weight by a number of its own, from a matrix of low rank.

    y = base(x) + (W ∘ B A) dropout(x)          ΔW = W ∘ B A

A (r, in) and B (out, r) are LoRA's, r (in + out) numbers, and there is no scaling. The rank of ΔW is at most r·rank(W):
W, which has full rank, lends it. Where W is zero nothing can be learned, and a large weight learns faster than a small
one. ΔW (out, in) is formed in each step. B is zero at first, so that training starts at the base model. It merges:
W ∘ (1 + B A). Several adapters multiply the one frozen W, so that their order does not matter.

Beside an embedding A is (r, vocabulary) and B (dim, r), and A is zero at first: row i becomes W[i] ∘ (1 + B A[:, i]).

Source: Huang et al., 2025, "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models". Its
claim: better than LoRA and its relatives on commonsense reasoning, dialogue and mathematics, from as many numbers.

PEFT's `get_delta_weight` gives B A; here, as for all kinds, it is what is added to W. `rank_pattern` counts here; PEFT
0.21 makes all layers of a first adapter of rank r, so a file with other ranks is not one that it reads. Its own files,
which name a rank_pattern and hold rank r, are read here as what they hold.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ... import nn
from ...autograd import Tensor, ops
from ...autograd import functional as F
from ...autograd.dispatch import matmul
from ...autograd.shape_ops import embedding, transpose
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..base_layer import oriented
from ..patterns import checked_patterns, first_match, shortened
from ..peft_config import PeftConfig, PeftType, check_dropout, check_rank
from ..types import Array, Input, Layer


@dataclass
class HiraConfig(PeftConfig):
    """The settings of a HiRA adapter; see `PeftConfig` for the others.

    r             rank of B A
    hira_dropout  dropout probability on the branch's input, in training only; not of an embedding's ids
    init_weights  True: A uniform in ±1/√in and B zero; "gaussian": A normal with standard deviation 1/r; False: both
                  are normal
    exclude_modules   which of the target_modules are left out after all
    rank_pattern  {name or regular expression: r} for layers with a rank of their own; the first match counts
    """

    peft_type: PeftType | str | None = PeftType.HIRA
    r: int = 32
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    hira_dropout: float = 0.0
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    init_weights: bool | str | None = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)

    __repr__ = changed_settings

    def __post_init__(self):
        self.rank_pattern = checked_patterns("rank_pattern", self.rank_pattern, check_rank)
        check_rank("r", self.r)
        check_dropout("hira_dropout", self.hira_dropout)
        super().__post_init__()
        kind = self.init_weights.lower() if isinstance(self.init_weights, str) else self.init_weights
        self.init_weights = False if kind is None else kind
        if not isinstance(kind, bool | None) and kind != "gaussian":
            raise ValueError(f"init_weights must be True, False or 'gaussian', got {shortened(kind)}")

    def as_stored(self, arrays: Mapping[str, Any]) -> Self:
        """Without rank_pattern where all matrices have rank r, as in PEFT's files, whatever that says."""
        matrices = ("hira_A", "hira_embedding_A")
        ranks = {len(array) for name, array in arrays.items() if any(part in matrices for part in name.split("."))}
        return dataclasses.replace(self, rank_pattern={}) if ranks == {self.r} else self

    def rank_and_alpha(self, name: str) -> tuple[int, None]:
        """(r, None) of the layer with this dotted name."""
        return first_match(self.rank_pattern, name, self.r), None


class HiraAdapter(Adapter):
    """A and B beside a linear layer, `hira_A` and `hira_B`, or beside an embedding, `hira_embedding_A` and `_B`."""

    def __init__(self, config: HiraConfig, target: Target) -> None:
        layer, self.r = target.layer, target.r
        A, B = (self.r, layer.in_features), (layer.out_features, self.r)
        self.hira_dropout = nn.Dropout(config.hira_dropout)
        self.beside = (layer,)  # in a tuple, for it has its own place
        self.of_ids = isinstance(layer, nn.Embedding)
        if self.of_ids:
            first = nn.zeros(A) if config.init_weights else nn.normal(A, 1.0)
            self.hira_embedding_A, self.hira_embedding_B = nn.Parameter(first), nn.Parameter(nn.normal(B, 1.0))
            self.idle_if_zero = "hira_embedding_A" if config.init_weights else None
        else:
            first = nn.uniform(A, A[1] ** -0.5) if config.init_weights is True else nn.normal(A, 1.0)
            self.hira_A = nn.Parameter(nn.normal(A, 1 / self.r) if config.init_weights == "gaussian" else first)
            self.hira_B = nn.Parameter(nn.zeros(B) if config.init_weights else nn.normal(B, 1.0))
            self.idle_if_zero = "hira_B"

    @classmethod
    def check(cls, config: HiraConfig, target: Target) -> None:
        if not isinstance(target.layer, nn.Embedding):
            super().check(config, target)

    def matrices(self) -> tuple[nn.Parameter, nn.Parameter]:
        """(A (r, in), B (out, r))."""
        return (self.hira_embedding_A, self.hira_embedding_B) if self.of_ids else (self.hira_A, self.hira_B)

    def update(self, layer: Layer, x: Input, base: Tensor) -> Tensor:
        """(W ∘ B A) dropout(x); for ids W[ids] ∘ A[:, ids]ᵀBᵀ."""
        A, B = self.matrices()
        if self.of_ids:
            return F.linear(embedding(transpose(A), x), B) * base
        return F.linear(self.hira_dropout(x), ops.matmul(B, A) * oriented(layer, layer.weight.data))

    def delta_weight(self) -> Array:
        """W ∘ B A, with the W that the layer has now."""
        return self.delta_weight_of(self.beside[0])

    def delta_weight_of(self, layer: Layer) -> Array:
        A, B = self.matrices()
        return matmul(B.data, A.data) * oriented(layer, layer.weight.data)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        return weight + self.delta_weight_of(layer), bias  # `weight` may have other adapters' updates in it already
