"""GaLore: all weights are trained, and the gradient is what has a low rank. No adapter, and LoRA's neighbour."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import array_module
from ...expect import expect_number, expect_whole
from ..protocols import Array
from .adamw import AdamW
from .optimizer import Forms, Group, Optimizer, State


class GaLoreAdamW(AdamW):
    r"""AdamW on gradients projected to rank r. (Zhao et al., 2024, arXiv 2403.03507, algorithm 2.)

    For a matrix W (out, in) with gradient G, out ≤ in:
        P = the first r left-singular vectors of G (out, r), found anew every `update_proj_gap` steps
        R = Pᵀ G                       (r, in)
        N = AdamW's step m̂ / (√v̂ + eps) for R, with m and v (r, in)
        W ← W - lr·weight_decay·W - lr · scale · P N
    and where out > in with right-singular vectors: R = G P, P (in, r), and N Pᵀ.

    LoRA trains few numbers; GaLore trains all of W, whose update over many steps may be of full rank, and saves on the
    state: r·in + r·in + out·r numbers where AdamW has 2·out·in. The gradient itself is as large as W. Its published
    claim is pretraining about as good as with AdamW's whole state.
    What is no matrix, and groups with rank None, get AdamW's step. m and v stay as they are when P changes.

    rank              r, at most the smaller side of a matrix: a whole number, or None
    update_proj_gap   the steps between two SVDs
    scale             the paper's α: as N is as large as the learning rate in every direction of P, it sets W's rate
    Each may also be given for a group: {"params": [...], "rank": 64}.
    """

    state_names = ("step", "m", "v", "projection")
    recordable = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        rank: int | None = 128,
        update_proj_gap: int = 200,
        scale: float = 0.25,
        **options: Any,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        settings |= {"rank": rank, "update_proj_gap": update_proj_gap, "scale": scale}
        Optimizer.__init__(self, params, options, **settings)

    def _check_settings(self, group: Group, known: set[str]) -> None:
        super()._check_settings(group, known)
        if group["rank"] is not None:
            expect_whole(group["rank"], "rank")
        expect_whole(group["update_proj_gap"], "update_proj_gap")
        expect_number(group["scale"], "scale", positive=True)

    def state_forms(self, p: Tensor, group: Group) -> Forms:
        if not _is_projected(p, group):
            return dict.fromkeys(AdamW.state_names, (p.shape, p.dtype))
        rank, small = _rank(p, group), _small_shape(p, group)
        return {
            "step": ((), int),
            "m": (small, p.dtype),
            "v": (small, p.dtype),
            "projection": ((min(p.shape), rank), p.dtype),
        }

    def update_group(self, params: list[Tensor], group: Group) -> None:
        """What is not projected as AdamW does, the rest one after another."""
        super().update_group([p for p in params if not _is_projected(p, group)], group)
        for p in params:
            if _is_projected(p, group):
                self._update_projected(p, self.state.setdefault(id(p), {}), group)

    def _update_projected(self, p: Tensor, state: State, group: Group) -> None:
        """In the small space AdamW takes its step from zero; that step, projected back and scaled, is W's."""
        grad: Any = p.grad
        P = state.get("projection")
        if P is None or state["step"] % group["update_proj_gap"] == 0:
            P = projection(grad, _rank(p, group))
        small = Tensor(array_module(grad).zeros(_small_shape(p, group), p.dtype))
        self.update(small, _down(grad, P), state, {**group, "weight_decay": 0.0})
        state["projection"] = P
        if group["weight_decay"]:
            p.data *= 1 - group["lr"] * group["weight_decay"]
        back = P @ small.data if _is_wide(grad) else small.data @ P.T
        p.data += group["scale"] * back


def projection(grad: Array, rank: int) -> Array:
    """The first `rank` singular vectors of a gradient (out, in) on its shorter side: (out, rank) or (in, rank)."""
    xp = array_module(grad)
    U, _, Vt = xp.linalg.svd(grad.astype(np.result_type(grad.dtype, np.float32), copy=False), full_matrices=False)
    vectors = U[:, :rank] if _is_wide(grad) else Vt[:rank].T
    return xp.ascontiguousarray(vectors, dtype=grad.dtype)


def _down(grad: Array, P: Array) -> Array:
    """R: the gradient in the coordinates of P."""
    return P.T @ grad if _is_wide(grad) else grad @ P


def _is_wide(matrix: Any) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _is_projected(p: Tensor, group: Group) -> bool:
    return p.ndim == 2 and group["rank"] is not None


def _rank(p: Tensor, group: Group) -> int:
    return min(group["rank"], *p.shape)


def _small_shape(p: Tensor, group: Group) -> tuple[int, int]:
    rank = _rank(p, group)
    return (rank, p.shape[1]) if _is_wide(p) else (p.shape[0], rank)
