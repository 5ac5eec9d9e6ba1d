r"""RandLoRA: the update is a sum of many random matrices of low rank, and their weights are what is trained.

    y = base(x) + s·B' A' dropout(x)          ΔW = s·B' A',   s = randlora_alpha / r

Let d be the smaller of the layer's two widths, D the larger, and n = ⌈d / r⌉. All layers share random A (r, 1, d) and
B (D, n, r), which stay as they are. A layer trains λ (r, n) and γ (n, d):

    A'[k n + j] = λ[k, j] A[k] ∘ γ[j]   (r n, d)          B'[:, j r + k] = B[:, j, k]   (D, n r)

If the outputs are the narrower side, ΔW is (B' A')ᵀ. (PEFT numbers the rows of A' and the columns of B' differently, as
shown. The bases are random, so it does not matter, but for files it is kept. PEFT's files have A and B once more for
each layer; here they are there once. PEFT reads that, with a warning.)

Trained are n (r + d) numbers, about d (1 + d / r): the larger r is, the fewer, unlike LoRA, and more than LoRA's
r (d + D) where r is small. The rank of ΔW is up to d, all that W has. λ is zero at first, so that training starts at
the base model. It merges.

Source: Albert et al., 2025, "RandLoRA: Full-Rank Parameter-Efficient Fine-Tuning of Large Models". Its claim: with as
many trained numbers as LoRA, much of what LoRA lacks to full fine-tuning is made up, most of all for models of images
and text.
"""

from dataclasses import dataclass

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.random import generator, random_seed
from ...autograd.shape_ops import reshape, transpose
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..patterns import shortened
from ..peft_config import PeftConfig, PeftType, check_alpha, check_dropout, check_rank
from ..types import Array, Layer
from .vera import cut_to_size


@dataclass
class RandLoraConfig(PeftConfig):
    """The settings of a RandLoRA adapter; see `PeftConfig` for the others.

    r                    rank of each random matrix
    projection_prng_key  the seed of A and B; they are saved too, as other libraries draw other numbers from it
    sparse               A and B have -1, 0 and 1 alone, with the chances 1/6, 2/3 and 1/6, divided by their deviation
    very_sparse          the same with 1/(2√d), 1 - 1/√d and 1/(2√d), d being the smaller of the widest two sides
    randlora_dropout     dropout probability on the branch's input, in training only
    randlora_alpha       the update is scaled by randlora_alpha / r; the paper takes 20 r
    init_weights         True: λ is zero and γ constant. False: λ is normal
    """

    peft_type: PeftType | str | None = PeftType.RANDLORA
    r: int = 32
    target_modules: list[str] | str | None = None
    projection_prng_key: int = 0
    save_projection: bool = True
    sparse: bool = False
    very_sparse: bool = False
    randlora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    randlora_alpha: float = 640
    bias: str = "none"
    modules_to_save: list[str] | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    __repr__ = changed_settings
    flags = (*PeftConfig.flags, "sparse", "very_sparse", "init_weights", "save_projection")

    def __post_init__(self):
        super().__post_init__()
        check_rank("r", self.r)
        check_dropout("randlora_dropout", self.randlora_dropout)
        check_alpha("randlora_alpha", self.randlora_alpha)
        if not isinstance(self.projection_prng_key, int) or isinstance(self.projection_prng_key, bool):
            raise ValueError(f"projection_prng_key must be an integer, got {shortened(self.projection_prng_key)}")
        if self.projection_prng_key < 0:
            raise ValueError(f"projection_prng_key must not be negative, got {shortened(self.projection_prng_key)}")
        if not self.save_projection:
            raise ValueError("save_projection=False: A and B must be saved, as each library draws others from the seed")

    @property
    def lora_alpha(self) -> float:
        """randlora_alpha, under the name that it has for LoRA."""
        return self.randlora_alpha


class RandLoraAdapter(Adapter):
    """λ, `randlora_lambda`, and γ, `randlora_gamma`, beside one linear layer."""

    idle_if_zero = "randlora_lambda"
    r: int
    lora_alpha: float

    def __init__(self, config: RandLoraConfig, target: Target) -> None:
        layer, self.r, self.lora_alpha = target.layer, target.r, target.lora_alpha
        self.scaling = target.lora_alpha / target.r
        self.narrow, self.wide = sorted((layer.in_features, layer.out_features))
        self.turned = layer.out_features < layer.in_features
        n = self.count = -(-self.narrow // target.r)
        self.randlora_lambda = nn.Parameter(nn.zeros((self.r, n)) if config.init_weights else nn.normal((self.r, n), 1))
        constant = 1 / max(n, self.narrow) if config.init_weights else 1 / self.wide
        self.randlora_gamma = nn.Parameter(nn.filled((n, self.narrow), constant))
        self.randlora_dropout = nn.Dropout(config.randlora_dropout)
        self.bases = target.shared

    @classmethod
    def shared(cls, config: RandLoraConfig, targets: list[Target]) -> dict[str, Tensor]:
        sizes = (max(t.layer.in_features for t in targets), max(t.layer.out_features for t in targets))
        narrow, wide = sorted(sizes)
        shapes = {"A": (config.r, 1, narrow), "B": (wide, -(-narrow // config.r), config.r)}
        with random_seed(config.projection_prng_key):
            return {f"randlora_{name}": nn.Buffer(_basis(config, shape, narrow)) for name, shape in shapes.items()}

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        cut_to_size(arrays, self.bases)

    def matrices(self) -> tuple[Tensor, Array]:
        """(A' (r n, d), B' (D, n r))."""
        A, B = (buffer.data for buffer in self.bases.values())
        rows, columns = A[:, :, : self.narrow], B[: self.wide, : self.count]
        first = reshape(self.randlora_lambda, self.r, self.count, 1) * rows * self.randlora_gamma
        return reshape(first, self.r * self.count, self.narrow), columns.reshape(self.wide, self.count * self.r)

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """s·B' A' dropout(x), or s·A'ᵀ B'ᵀ dropout(x)."""
        A, B = self.matrices()
        first, second = (B.T, transpose(A)) if self.turned else (A, B)
        return F.linear(F.linear(self.randlora_dropout(x), first), second) * self.scaling

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        delta = (B @ A.data) * self.scaling
        return delta.T if self.turned else delta

    def rescale(self, factor: float) -> None:
        """s = factor · randlora_alpha / r."""
        self.scaling = factor * self.lora_alpha / self.r


def _basis(config: RandLoraConfig, shape: tuple[int, ...], narrow: int) -> Array:
    """A random array with a standard deviation of 1."""
    if nn.is_weightless():
        return nn.zeros(shape)
    if not config.sparse and not config.very_sparse:
        drawn = nn.uniform(shape, 1.0)
        return drawn / drawn.std(ddof=1)
    chance = 1 / (2 * (narrow**0.5 if config.very_sparse else 3))
    drawn = generator().random(shape, dtype=np.float32)
    signs = (drawn > 1 - chance).astype(np.float32) - (drawn < chance)
    return signs / np.float32(max(signs.std(ddof=1), np.finfo(np.float32).tiny))
