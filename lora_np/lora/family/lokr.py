r"""LoKr: the update is a Kronecker product, a small matrix whose every entry is a multiple of another one.

    y = base(x) + s·(W₁ ⊗ W₂) x          ΔW = s·(W₁ ⊗ W₂),   s = alpha / r

With in = m·n and out = l·k, W₁ is (l, m) and W₂ (k, n): block (i, j) of ΔW is s·W₁[i, j] W₂. If r is smaller than half
of W₂'s longer side, W₂ = B₂A₂ with B₂ (k, r) and A₂ (r, n); with `decompose_both` W₁ likewise. m is the divisor of the
width that is nearest to its root from below, or `decompose_factor`, and so is l.

Trained are l m + r (k + n) numbers: for a layer of 768 x 768 with r = 8, 24·24 + 8·64 = 1,088 where LoRA has 12,288.
The rank of ΔW is rank(W₁)·rank(W₂), up to that of W. It is never formed: with x as a matrix X (m, n), ΔW x is
s·W₁ X W₂ᵀ (l, k), read as one row. W₁ is zero at first, so that training starts at the base model. It merges.

Source: LyCORIS (see `lycoris.py`); before that Edalati et al., 2022, "KronA: Parameter Efficient Tuning with Kronecker
Adapter". Its claim: T5 does better on GLUE than with the other adapters of its time, and is as fast as the base.

PEFT has no LoKr beside GPT-2's Conv1D; here ΔW is turned for it, as everywhere.
"""

import math
from dataclasses import dataclass

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module
from ...autograd.shape_ops import reshape, swapaxes
from ...settings import changed_settings
from ..adapter import Target
from ..patterns import shortened
from ..peft_config import PeftType
from ..types import Array
from .lycoris import LycorisAdapter, LycorisConfig, kaiming


@dataclass
class LoKrConfig(LycorisConfig):
    """The settings of a LoKr adapter; see `LycorisConfig`.

    decompose_both      W₁ is a product of rank r, too, if r is smaller than half of its longer side
    decompose_factor    m and l, where they divide the widths; else at most that. -1: near the root
    rank_dropout_scale  divide the outputs that rank_dropout leaves by the fraction that they are
    init_weights        True: W₁ (or its first factor) is zero; "lycoris": W₂ (or its second); False: none is
    """

    peft_type: PeftType | str | None = PeftType.LOKR
    r: int = 8
    alpha: float = 8
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    use_effective_conv2d: bool = False
    decompose_both: bool = False
    decompose_factor: int = -1
    rank_dropout_scale: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    init_weights: bool | str = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    __repr__ = changed_settings
    flags = (*LycorisConfig.flags, "decompose_both", "rank_dropout_scale")

    def __post_init__(self):
        super().__post_init__()
        factor = self.decompose_factor
        if not isinstance(factor, int) or isinstance(factor, bool) or (factor < 1 and factor != -1):
            raise ValueError(f"decompose_factor must be -1 or an integer of at least 1, got {shortened(factor)}")
        if self.init_weights is None:
            self.init_weights = False
        if not isinstance(self.init_weights, bool) and self.init_weights != "lycoris":
            raise ValueError(f"init_weights must be True, False or 'lycoris', got {shortened(self.init_weights)}")


def two_factors(size: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers whose product is `size`: `factor` and the rest, if it divides it.

    Else the first is the largest divisor that is no larger than the factor (-1: than anything) and the root of `size`.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = math.isqrt(size) if factor == -1 else min(factor, math.isqrt(size))
    first = next(m for m in range(most, 0, -1) if size % m == 0)
    return first, size // first


class LoKrAdapter(LycorisAdapter):
    """W₁ and W₂ beside one linear layer: `lokr_w1` or `lokr_w1_a`, `lokr_w1_b`, and likewise `lokr_w2`."""

    def __init__(self, config: LoKrConfig, target: Target) -> None:
        super().__init__(config, target)
        self.rescaled, r = config.rank_dropout_scale, target.r
        self.l, self.k = two_factors(target.layer.out_features, config.decompose_factor)
        self.m, self.n = two_factors(target.layer.in_features, config.decompose_factor)
        self._make("lokr_w1", self.l, self.m, r if config.decompose_both and r < max(self.l, self.m) / 2 else None)
        self._make("lokr_w2", self.k, self.n, r if r < max(self.k, self.n) / 2 else None)
        if config.init_weights:
            names = ("lokr_w2", "lokr_w2_b") if config.init_weights == "lycoris" else ("lokr_w1", "lokr_w1_a")
            self.idle_if_zero = next(name for name in names if hasattr(self, name))
            zero = getattr(self, self.idle_if_zero)
            zero.data = nn.zeros(zero.shape)

    def _make(self, name: str, rows: int, columns: int, r: int | None) -> None:
        """One of the two matrices, whole or, with a rank, as a product."""
        if r is None:
            setattr(self, name, nn.Parameter(kaiming(rows, columns)))
        else:
            setattr(self, f"{name}_a", nn.Parameter(kaiming(rows, r)))
            setattr(self, f"{name}_b", nn.Parameter(kaiming(r, columns)))

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(W₁ (l, m), W₂ (k, n))."""
        first, second = (
            getattr(self, name) if hasattr(self, name) else getattr(self, f"{name}_a") @ getattr(self, f"{name}_b")
            for name in ("lokr_w1", "lokr_w2")
        )
        return first, second

    def product(self, x: Tensor) -> Tensor:
        """s·W₁ X W₂ᵀ, x (..., in) as X (..., m, n)."""
        first, second = self.matrices()
        rows = F.linear(reshape(x, *x.shape[:-1], self.m, self.n), second)  # (..., m, k)
        y = swapaxes(F.linear(swapaxes(rows, -1, -2), first), -1, -2)  # (..., l, k)
        return reshape(y, *x.shape[:-1], self.l * self.k) * self.scaling

    def delta_weight(self) -> Array:
        first, second = (matrix.data for matrix in self.matrices())
        return array_module(first).kron(first, second) * self.scaling
