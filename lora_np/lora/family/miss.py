r"""MiSS: one small matrix for all shards of the weight. (Kang and Yin, 2024, "MiSS: Revisiting the Trade-off in LoRA
with an Efficient Shard-Sharing Structure", section 3; its earlier name was Bone.)

    y = base(x) + Dᵀ Σ_j x_j          ΔW = [Dᵀ Dᵀ ... Dᵀ]

The input x is cut into shards x_j of r numbers, the last one filled up with zeros; they are added up, and D (r, out)
acts on the sum: one product where LoRA has two. Trained are r·out numbers; the rank of ΔW is at most r, and it merges.
D is zero at first: training starts at the base model. `init_weights` names two variants, which also start there:

    "mini"  D = [M M ... M] is itself made of shards M (r, mini_r): r·mini_r numbers
    "bat"   ΔW_ij = W_ij D_i + D_i, with W cut into blocks W_ij (r, r), and D_i (r, r) for each row of them: r·out
            numbers, and any rank, as W takes part

What the paper claims: better results than LoRA with as many numbers, in less time and memory.

Beside other active adapters "bat" acts on W alone: the order does not matter. PEFT has it act on the weight that those
before it have made; one alone is the same in both. PEFT ignores `miss_dropout` for "bat", and has MiSS beside Linear
layers only; here dropout acts on the branch's input always, and Conv1D layers are adapted too.
"""

from dataclasses import dataclass
from typing import Any

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module
from ...autograd.shape_ops import concatenate, transpose
from ...settings import changed_settings
from ..adapter import Adapter, Target, dtype_beside
from ..base_layer import oriented
from ..patterns import shortened
from ..peft_config import PeftConfig, PeftType, check_dropout, check_rank, check_ranks
from ..types import Array, Layer

VARIANTS = (True, False, "bat", "mini")


@dataclass
class MissConfig(PeftConfig):
    """The settings of a MiSS adapter; see `PeftConfig` for the others.

    r             the length of a shard of the input
    miss_dropout  dropout probability on the branch's input, in training only
    mini_r        the length of a shard of the output, for "mini"
    init_weights  True; "bat" or "mini", see above; False (or None): D is random
    """

    peft_type: PeftType | str | None = PeftType.MISS
    r: int = 64
    miss_dropout: float = 0.0
    mini_r: int = 1
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    init_weights: bool | str | None = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = None

    __repr__ = changed_settings
    flags = ()

    def __post_init__(self):
        if self.bias == "MiSS_only":  # as PEFT's documentation spells it
            self.bias = "miss_only"
        super().__post_init__()
        check_ranks(self.r)
        check_rank("mini_r", self.mini_r)
        check_dropout("miss_dropout", self.miss_dropout)
        if self.init_weights is None:
            self.init_weights = False
        if not any(self.init_weights is known for known in VARIANTS[:2]) and self.init_weights not in VARIANTS[2:]:
            known = ", ".join(map(repr, VARIANTS))
            raise ValueError(f"init_weights must be one of {known}, got {shortened(self.init_weights)}")


class MissAdapter(Adapter):
    """D, `miss_block`, beside one linear layer: (r, out), for "mini" M (r, mini_r), for "bat" (out/r, r, r)."""

    idle_if_zero = "miss_block"
    reported = "miss.MissLinear"

    def __init__(self, config: MissConfig, target: Target) -> None:
        layer, self.r, self.variant = target.layer, target.r, config.init_weights
        fan_out = layer.out_features
        shapes: dict[Any, tuple[int, ...]] = {
            "mini": (self.r, config.mini_r),
            "bat": (fan_out // self.r, self.r, self.r),
        }
        shape = shapes.get(self.variant, (self.r, fan_out))
        D = nn.zeros(shape) if self.variant else nn.uniform(shape, fan_out**-0.5)
        self.miss_block = nn.Parameter(D)
        self.miss_dropout = nn.Dropout(config.miss_dropout)
        self.beside = (layer,)  # in a tuple, for it has its own place

    @classmethod
    def check(cls, config: MissConfig, target: Target) -> None:
        super().check(config, target)
        r, fan_in, fan_out = target.r, target.layer.in_features, target.layer.out_features
        if r > fan_in:
            raise ValueError(f"r = {r} is more than the {fan_in} inputs of {target.name}")
        if config.init_weights == "bat" and (fan_in % r or fan_out % r):
            raise ValueError(
                f"init_weights='bat' cuts the weight of {target.name}, ({fan_out}, {fan_in}), into blocks of "
                f"({r}, {r}): r must divide both"
            )
        if config.init_weights == "mini" and fan_out % config.mini_r:
            raise ValueError(
                f"init_weights='mini' cuts the {fan_out} outputs of {target.name} into shards of mini_r = "
                f"{config.mini_r}, which must divide them"
            )

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        x = self.miss_dropout(x)
        if self.variant == "bat":
            return F.linear(x, self._of_blocks(layer, self.miss_block))
        y = F.linear(self._sum_of_shards(x), transpose(self.miss_block))
        return concatenate([y] * (layer.out_features // y.shape[-1]), axis=-1)

    def delta_weight(self) -> Array:
        return self.delta_weight_of(self.beside[0])

    def delta_weight_of(self, layer: Layer) -> Array:
        D = self.miss_block.data
        if self.variant == "bat":
            return self._of_blocks(layer, D)
        xp = array_module(D)
        copies = layer.out_features // D.shape[1], -(-layer.in_features // self.r)
        return xp.tile(D.T, copies)[:, : layer.in_features]

    def _sum_of_shards(self, x):
        """Σ_j x_j (..., r) of x (..., in)."""
        missing = -x.shape[-1] % self.r
        if missing:
            x = concatenate([x, array_module(x.data).zeros((*x.shape[:-1], missing), x.dtype)], axis=-1)
        return x.reshape(*x.shape[:-1], -1, self.r).sum(-2)

    def _of_blocks(self, layer, D):
        """The ΔW (out, in) of "bat", an array or a Tensor as D (out/r, r, r) is."""
        weight, r = oriented(layer, layer.weight.data).astype(dtype_beside(layer), copy=False), self.r
        blocks = weight.reshape(len(D), r, -1, r).swapaxes(1, 2)  # (out/r, in/r, r, r)
        D = D.reshape(len(D), 1, r, r)
        return (blocks @ D + D).swapaxes(1, 2).reshape(weight.shape)
