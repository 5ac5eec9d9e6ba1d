"""LoRA with preconditioned gradients, under PEFT's name: what A and B learn depends on B A alone."""

from typing import Any

from ... import nn
from ...expect import A_MODEL, expect, expect_number
from ...lora.layer import LowRankAdapter
from .lora_pairs import linear_adapters, pairs, times_inverse
from .optimizer import Optimizer


def create_riemannian_optimizer(
    model: nn.Module, optimizer_cls: type[Optimizer], *, lr: float, reg: float = 1e-2, **kwargs: Any
) -> Any:
    r"""An optimizer of `optimizer_cls` whose steps first turn the gradients of each pair A, B of LoRA into

        g_A ← (Bᵀ B + reg·I)⁻¹ g_A    (r, in)         g_B ← g_B (A Aᵀ + reg·I)⁻¹    (out, r)

    Zhang and Pilanci, 2024, "Riemannian Preconditioned LoRA for Fine-Tuning Foundation Models" (arXiv 2402.02347).
    B A is the same for B M and M⁻¹ A, but gradient descent on them is not; with these two factors it is, up to reg:
    B A then moves by G projected on the rows of A and the columns of B, whatever their sizes. Two inverses of (r, r) a
    layer and step are all that it costs. Published claim: faster convergence, and less care with the learning rate.

    reg holds the inverses small where a factor is nearly of lower rank, as B is at first. A and B beside an embedding,
    and everything that is not A or B, are trained by `optimizer_cls` as they are. kwargs are those of optimizer_cls.
    ValueError if no pair A, B is trained.
    """
    expect(model, nn.Module, "model", A_MODEL)
    if not (isinstance(optimizer_cls, type) and issubclass(optimizer_cls, Optimizer)):
        raise TypeError(f"optimizer_cls should be a class of optimizers, such as AdamW, got {optimizer_cls!r:.60}")
    expect_number(reg, "reg")
    adapters = [adapter for adapter in linear_adapters(model) if all(X.requires_grad for X in adapter.matrices())]
    if not adapters:
        raise ValueError("no pair of A and B of LoRA beside a linear layer is trained here: there is nothing to turn")
    trained = [p for p in model.parameters() if p.requires_grad]
    return _preconditioning(optimizer_cls)(trained, lr=lr, **kwargs).of(adapters, float(reg))


def _preconditioning(optimizer_cls: type[Optimizer]) -> Any:
    """The class `optimizer_cls` with a step before its step."""

    class RiemannianPreconditionedOptimizer(optimizer_cls):  # type: ignore[valid-type, misc]
        recordable = False

        def of(self, adapters: list[LowRankAdapter], reg: float) -> Any:
            """For these adapters."""
            self.adapters, self.reg = adapters, reg
            return self

        def step(self) -> None:
            for adapter in self.adapters:
                precondition(adapter, self.reg)
            super().step()

    return RiemannianPreconditionedOptimizer


def precondition(adapter: LowRankAdapter, reg: float) -> None:
    """Put the two formulas' gradients in the places of A's and B's; a matrix without a gradient stays without."""
    A, B = adapter.matrices()
    new = [None if X.grad is None else X.grad.copy() for X in (A, B)]
    for rows, outputs in pairs(adapter):
        if new[0] is not None:
            new[0][rows] = times_inverse(A.grad[rows].T, B.data[outputs].T, reg).T
        if new[1] is not None:
            new[1][outputs] = times_inverse(B.grad[outputs], A.data[rows], reg)
    A.grad, B.grad = new
