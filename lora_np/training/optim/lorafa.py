"""LoRA-FA under PEFT's name: A stays as it was drawn, and B's gradient makes up for it."""

import math
from collections.abc import Iterable
from typing import Any

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import array_module
from ...expect import A_MODEL, expect, expect_number, expect_whole
from ...lora.kinds import peft_type_of
from ...lora.layer import LowRankAdapter
from ..protocols import Array
from .lora_pairs import linear_adapters, pairs, times_inverse
from .optimizer import Group, Optimizer, State

DAMPING = 1e-8  # on the diagonal of A Aᵀ, as in PEFT


class LoraFAOptimizer(Optimizer):
    r"""AdamW in Transformers' old form, which gets for B beside a frozen A another gradient than the loss's.

    Zhang et al., 2023, "LoRA-FA: Memory-efficient Low-rank Adaptation" (arXiv 2308.03303). With ΔW = s·B A and A
    frozen, B's gradient is g = s·G Aᵀ, G being that of the whole weight. Of all changes of B, the one whose s·g' A is
    nearest to G (least squares in the Frobenius norm) is
        g' = g (A Aᵀ)⁻¹ / s²
    Then, as for everything else that is trained, with g' in the place of g:
        m ← β₁ m + (1 - β₁) g',   v ← β₂ v + (1 - β₂) g'²
        p ← p - lr · √(1 - β₂ᵗ)/(1 - β₁ᵗ) · m / (√v + eps);   p ← p - lr·weight_decay·p
    (AdamW's eps is beside the corrected √v̂, and its decay comes first. correct_bias=False: the factor is left out.)

    Since A is frozen, the branch's inputs x need not be kept for A's gradient, only A x, which is r numbers wide: that
    is the published claim, activation memory as low as that at the quality of LoRA.

    adapters  the `LowRankAdapter`s whose B is among params; their A and s are read at each step
    """

    state_names = ("step", "m", "v")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        adapters: Iterable[LowRankAdapter] = (),
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
        super().__init__(params, None, **settings)
        self.beside = {id(adapter.matrices()[1]): adapter for adapter in adapters}  # {id of B: its adapter}

    def update(self, p: Tensor, grad: Array, state: State, group: Group) -> None:
        xp, (beta1, beta2) = array_module(p.data), group["betas"]
        if id(p) in self.beside:
            grad = nearest_gradient(grad, self.beside[id(p)])
        if not state:
            state.update(step=0, m=xp.zeros_like(p.data), v=xp.zeros_like(p.data))
        state["step"] += 1
        m, v, rate = state["m"], state["v"], group["lr"]
        m *= beta1
        m += (1 - beta1) * grad
        v *= beta2
        v += (1 - beta2) * (grad * grad)
        if group["correct_bias"]:
            rate *= math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        p.data -= rate * m / (xp.sqrt(v) + group["eps"])
        if group["weight_decay"]:
            p.data *= 1 - group["lr"] * group["weight_decay"]


def nearest_gradient(grad: Array, adapter: LowRankAdapter) -> Array:
    """g' = g (A Aᵀ)⁻¹ / s² (out, r), for each pair of A and B."""
    A, found = adapter.matrices()[0].data, grad.copy()
    for rows, outputs in pairs(adapter):
        found[outputs] = times_inverse(grad[outputs], A[rows], DAMPING)
    return found / adapter.scaling**2


def create_lorafa_optimizer(
    model: nn.Module, r: int, lora_alpha: float, lr: float, weight_decay: float = 0.0, use_rslora: bool | None = None
) -> LoraFAOptimizer:
    """A `LoraFAOptimizer` for what is trained in a model with LoRA, all of whose A's are frozen by this call.

    r, lora_alpha   PEFT's, which change nothing: each layer's own rank and scaling count
    use_rslora      None, or what the configs say
    What is not A or B beside a linear layer, such as DoRA's magnitudes and A and B beside an embedding, is trained by
    AdamW. (PEFT pairs whatever has "lora" in its name, so that these get no gradient or another's; and it rounds g' to
    bfloat16 where the machine has that.) `set_adapter` makes A trainable again: call this after it.
    ValueError if there is no LoRA beside a linear layer, or use_rslora is not what the configs say.
    """
    expect(model, nn.Module, "model", A_MODEL)
    expect_whole(r, "r")
    expect_number(lora_alpha, "lora_alpha")
    expect_number(weight_decay, "weight_decay")
    configs = getattr(model, "peft_config", {})
    active = [name for name in getattr(model, "active_adapters", []) if name in configs]
    others = [name for name in active if bool(getattr(configs[name], "use_rslora", False)) != use_rslora]
    if use_rslora is not None and others:
        raise ValueError(f"use_rslora={use_rslora}, but the config of {', '.join(others)} says otherwise: leave it out")
    adapters = [adapter for adapter in linear_adapters(model) if peft_type_of(adapter) == "LORA"]
    if not adapters:
        raise ValueError("LoRA-FA trains the B of LoRA beside linear layers: this model has none")
    for adapter in adapters:
        adapter.matrices()[0].requires_grad = False
    trained = [p for p in model.parameters() if p.requires_grad]
    return LoraFAOptimizer(trained, lr, weight_decay=weight_decay, adapters=adapters)
