r"""KaSA: the smallest singular values of W make room for an update with singular values of its own.
(Wang et al., 2025, "KaSA: Knowledge-Aware Singular-Value Adaptation of Large Language Models"; the loss: eq. 9 to 12.)

    y = x (W - U_r S_r V_rᵀ)ᵀ + b + s·B(d ∘ A(dropout(x))),    ΔW = s·B diag(d) A

U_r S_r V_rᵀ are the r smallest singular values of W (out, in) with their vectors, taken to be noise: training does not
start at the base model but at what is left of it. A (r, in), B (out, r) and d (r,), normal at first, are trained, r
numbers more than LoRA's; the update has rank r, W' - W at most 2r. It is merged into what is left.

B and A are held near orthogonal, and d small, by a term that is added to the loss: `regularization`. It is
`peft_model._get_kasa_loss()`, as in PEFT. The paper's claim is better results than full training and 14 other
methods, in language understanding, generation and following instructions.

Here the base weight comes back when the adapter is disabled or deleted; in PEFT what was cut off is lost. PEFT's cannot
be on GPT-2's Conv1D.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import to_device, to_numpy
from ...autograd.dispatch import matmul
from ...autograd.ops import sqrt
from ...autograd.shape_ops import transpose
from ..adapter import Adapter, Target
from ..base_layer import oriented
from ..types import Array, Config, Layer
from .whole import OnWholeLayers


class Kasa(OnWholeLayers):
    """A, B and d, `lora_diag`, beside a layer that lost its r smallest singular values."""

    setting = "kasa_config"

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.lora_diag = nn.Parameter(nn.normal(self.r, 1.0))
        if not nn.is_weightless():
            A, B = smallest(target.layer, target.r)
            self.initial = A, B / self.scaling, self.scaling

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        super().check(config, target)
        most = min(target.layer.in_features, target.layer.out_features)
        if target.r >= most:
            raise ValueError(f"kasa_config: r = {target.r} must be below {most}, the singular values of {target.name}")
        if not config.scaling_of(target.r, target.lora_alpha):
            raise ValueError("kasa_config needs a lora_alpha other than 0")

    def branch(self, x: Tensor) -> Tensor:
        A, B = self.matrices()
        return F.linear(F.linear(x, A) * self.lora_diag, B) * self.scaling

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        return matmul(B.data * self.lora_diag.data, A.data) * self.scaling


def smallest(layer: Layer, r: int) -> tuple[Array, Array]:
    """V_rᵀ (r, in) and U_r S_r (out, r) of the r smallest singular values of a layer's W, on its device."""
    weight = to_numpy(oriented(layer, layer.weight.data))
    U, S, Vt = np.linalg.svd(weight.astype(np.result_type(weight.dtype, np.float32)), full_matrices=False)
    return to_device(Vt[-r:], layer.device), to_device(U[:, -r:] * S[-r:], layer.device)


def regularization(adapters: Iterable[Adapter]) -> Tensor | float:
    """Σ β |d|² + γ (‖Bᵀ B - 1‖ + ‖A Aᵀ - 1‖) over those of these adapters that are KaSA's; 0.0 if none is."""
    total: Any = 0.0
    for adapter in adapters:
        if isinstance(adapter, Kasa):
            (A, B), settings = adapter.matrices(), adapter.config.kasa_config
            d: Any = adapter.lora_diag
            apart = _norm(F.linear(transpose(B), transpose(B))) + _norm(F.linear(A, A))
            total = total + (d * d).sum() * settings.beta + apart * settings.gamma
    return total


def _norm(gram):
    """‖G - 1‖, Frobenius's."""
    difference = gram - to_device(np.eye(gram.shape[0], dtype=gram.dtype), gram.device)
    return sqrt((difference * difference).sum())
