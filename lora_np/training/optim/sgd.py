"""Stochastic gradient descent."""

from collections.abc import Iterable
from typing import Any

from ...autograd import Tensor
from ..protocols import Array
from .optimizer import Group, Optimizer, State


class SGD(Optimizer):
    """v ← momentum·v + (g + weight_decay·p);  p ← p - lr·v. Stochastic gradient descent, as PyTorch has it."""

    state_names = ("velocity",)

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def update(self, p: Tensor, grad: Array, state: State, group: Group) -> None:
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p.data
        if group["momentum"]:
            velocity = state.get("velocity")
            grad = state["velocity"] = grad.copy() if velocity is None else group["momentum"] * velocity + grad
        p.data -= group["lr"] * grad
