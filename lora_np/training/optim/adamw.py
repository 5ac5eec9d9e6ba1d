"""AdamW: no weight's step is much longer than the learning rate, whatever the size of its gradients."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

from ...autograd import Tensor
from ...autograd.devices import array_module
from ...autograd.dispatch import implementation
from ..protocols import Array
from .optimizer import Group, Optimizer, State


class AdamW(Optimizer):
    r"""Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2; defaults as in PyTorch).

    At step t, with gradient g:
        m ← β₁ m + (1 - β₁) g          the mean of the gradients, recent ones counting most
        v ← β₂ v + (1 - β₂) g²         the mean of their squares
        p ← p - lr·weight_decay·p - lr · m̂ / (√v̂ + eps),   m̂ = m / (1 - β₁ᵗ),  v̂ = v / (1 - β₂ᵗ)
    m and v begin at zero, and so are too small in the first steps; the hats undo that. The state is m and v, two
    arrays as large as the parameter. A frozen weight has none: memory that LoRA saves, beside the gradient's.
    """

    state_names: tuple[str, ...] = ("step", "m", "v")
    recordable = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update_group(self, params: list[Tensor], group: Group) -> None:
        """All parameters at once where the table of operations has a kernel for that, else one after another."""
        arrays = [array for p in params for array in (p.data, p.grad)]
        kernel = implementation("adamw", arrays) if arrays else None
        if kernel is None:
            super().update_group(params, group)
        else:
            self._update_together(params, group, kernel)

    def update(self, p: Tensor, grad: Array, state: State, group: Group) -> None:
        xp, (beta1, beta2) = array_module(p.data), group["betas"]
        _begin(state, p)
        state["step"] += 1
        m, v, t = state["m"], state["v"], state["step"]
        work = xp.multiply(grad, 1 - beta1, out=xp.empty_like(p.data))  # the one array of working memory
        m *= beta1
        m += work
        xp.multiply(grad, grad, out=work)
        work *= 1 - beta2
        v *= beta2
        v += work
        xp.sqrt(v, out=work)  # from here on, work is the denominator and then the step
        work *= 1 / math.sqrt(1 - beta2**t)
        work += group["eps"]
        xp.divide(m, work, out=work)
        work *= group["lr"] / (1 - beta1**t)
        if group["weight_decay"]:
            p.data *= 1 - group["lr"] * group["weight_decay"]
        p.data -= work

    def _update_together(self, params: list[Tensor], group: Group, kernel: Callable[..., None]) -> None:
        """The same step by one kernel for all parameters that have taken equally many, so that t is common."""
        ages: dict[int, list[tuple[Tensor, State]]] = {}
        for p in params:
            state = self.state.setdefault(id(p), {})
            _begin(state, p)
            ages.setdefault(state["step"], []).append((p, state))
        for found in ages.values():
            arrays = ((p.data, p.grad, state["m"], state["v"]) for p, state in found)
            kernel(*zip(*arrays, strict=True), functools.partial(_next_step, group, [state for _, state in found]))


def _begin(state: State, p: Tensor) -> None:
    """Fill a parameter's empty state of AdamW: no step yet, m and v zero."""
    if not state:
        xp = array_module(p.data)
        state.update(step=0, m=xp.zeros_like(p.data), v=xp.zeros_like(p.data))


def _next_step(group: Group, states: list[State]) -> list[float]:
    """Count a step of AdamW in these states; the numbers that the kernel needs for it."""
    for state in states:
        state["step"] += 1
    t, (beta1, beta2) = states[0]["step"], group["betas"]
    corrections = 1 / (1 - beta1**t), 1 / (1 - beta2**t)
    return [group["lr"], beta1, beta2, group["eps"], group["weight_decay"], *corrections]
