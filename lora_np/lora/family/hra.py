r"""HRA: the inputs of each layer are reflected r times, each time in a trained direction. (Yuan et al., 2024, "Bridging
the Gap between Low-rank and Orthogonal Adaptation via Householder Reflection Adaptation", eqs. 4-6.)

    y = base(x Mᵀ)          W' = W M          M = H₁ H₂ ... H_r,  H_i = I - 2 u_i u_iᵀ,  ‖u_i‖ = 1

A product of reflections is orthogonal, and it differs from I by a matrix of rank r. With U (in, r) = [u₁ ... u_r]

    M = I - U T Uᵀ,   T = (½ I + the part of UᵀU above the diagonal)⁻¹  (r, r)          ΔW = -W U T Uᵀ

(Schreiber and Van Loan, 1989, "A storage-efficient WY representation"). So HRA is LoRA with A = Uᵀ and B = -W U T, and
costs as much: two thin products, where PEFT multiplies W by M at each step. Trained are r·in numbers in a layer, half
of LoRA's in a square one. It merges.

With r even, u₁ = u₂, u₃ = u₄, ...: a reflection undoes the one before, and training starts at the base model (but for
rounding). With an odd r, or init_weights=False, it starts elsewhere. apply_GS makes the u_i orthogonal to each other by
Gram-Schmidt; then T = 2I, M = I - 2 U Uᵀ, and no start is the base model. Of two equal directions it would leave one of
rounding errors; here all r are drawn apart then, while PEFT starts so.

Claimed: better than LoRA and OFT with fewer numbers, LLaMA2-7B on mathematics among others.

PEFT has HRA for Linear layers and not for GPT-2's Conv1D.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor, no_grad
from ...autograd import functional as F
from ...autograd.devices import array_module
from ...autograd.matrices import inverse, upper_triangle
from ...autograd.shape_ops import concatenate
from ...refusals import warn
from ...settings import changed_settings
from ..adapter import Target
from ..peft_config import PeftConfig, PeftType, check_ranks
from ..types import Array, Input
from .multiplicative import Multiplicative


@dataclass
class HRAConfig(PeftConfig):
    """The settings of an HRA adapter; see `PeftConfig` for the others.

    r             the number of reflections, better an even one
    apply_GS      make their directions orthogonal
    init_weights  True: directions in equal pairs; False: all drawn apart
    """

    peft_type: PeftType | str | None = PeftType.HRA
    r: int = 8
    apply_GS: bool = False  # noqa: N815  PEFT's name
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = None

    __repr__ = changed_settings
    flags = ("apply_GS", "init_weights")

    def __post_init__(self):
        super().__post_init__()
        check_ranks(self.r)


class HRAAdapter(Multiplicative):
    """The directions, `hra_u` (in, r), beside one linear layer; their lengths do not count."""

    reported = "hra.HRALinear"
    hra_u: Any  # a Parameter

    def __init__(self, config: HRAConfig, target: Target) -> None:
        super().__init__(config, target)
        pairs = config.init_weights and not config.apply_GS
        if pairs and target.r % 2 and not nn.is_weightless():
            warn(f"r={target.r} is odd: its reflections do not undo each other, and training starts off the base model")
        self.asks_the_host = not config.apply_GS  # an inverse does
        self.hra_u = nn.Parameter(directions(target.layer.in_features, target.r, pairs))

    @classmethod
    def check(cls, config: HRAConfig, target: Target) -> None:
        super().check(config, target)
        if config.apply_GS and target.r > target.layer.in_features:
            width = target.layer.in_features
            raise ValueError(
                f"apply_GS: r = {target.r} directions of {target.name}'s {width} inputs cannot be orthogonal"
            )

    def factors(self) -> tuple[Tensor, Tensor]:
        """U (in, r) with columns of length one, and T (r, r)."""
        U = self.hra_u
        half = 0.5 * array_module(U.data).eye(self.r, dtype=U.dtype)
        if self.config.apply_GS:
            return orthonormal(U), Tensor(4 * half)
        U = U / (U * U).sum(axis=0).sqrt()
        return U, inverse(upper_triangle(F.linear(U.T, U.T), 1) + half)

    def turned(self, x: Input) -> Tensor:
        """x Mᵀ = x - x U Tᵀ Uᵀ."""
        U, T = self.factors()
        return x - F.linear(F.linear(x @ U, T), U)

    def matrix(self) -> Array:
        """Mᵀ (in, in)."""
        with no_grad():
            U, T = (factor.data for factor in self.factors())
        return array_module(U).eye(len(U), dtype=U.dtype) - U @ T.T @ U.T


def directions(width: int, r: int, pairs: bool) -> Array:
    """U (width, r) at the start: uniform, and in equal pairs where that is wanted and r is even."""
    if pairs and r % 2 == 0 and not nn.is_weightless():
        return np.repeat(nn.uniform((width, r // 2), (r // 2) ** -0.5), 2, axis=1)
    drawn: Array = nn.uniform((width, r), r**-0.5)
    return drawn


def orthonormal(U: Any) -> Tensor:
    """The columns of U by Gram-Schmidt: from each, what the ones before it have of it is taken; then length one."""
    found: list[Any] = []
    for i in range(U.shape[1]):
        u = U[:, i : i + 1]
        for other in found:
            u = u - (other * u).sum() * other
        found.append(u / (u * u).sum().sqrt())
    return concatenate(found, axis=1)
