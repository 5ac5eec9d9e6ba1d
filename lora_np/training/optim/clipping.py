"""Clipping: gradients whose joint norm is too large are scaled down, all by the same factor."""

import math
from collections.abc import Iterable
from typing import Any

from ...autograd import Tensor
from ...autograd.dispatch import implementation
from ...expect import expect_number
from .optimizer import parameters_in


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Any:
    """Scale all gradients together so that their joint Euclidean norm is at most `max_norm`; returns the norm before.

    The direction of the step stays, only its length is bounded (Pascanu et al., 2013). The norm is a float; on a GPU
    it is an array there, so that the host need not wait for it.
    """
    expect_number(max_norm, "max_norm")
    parameters = [p for p in parameters_in(parameters) if p.grad is not None]
    grads = [p.grad for p in parameters]
    arrays = [array for p in parameters for array in (p.data, p.grad)]
    if arrays and (clip := implementation("clip", arrays)) is not None:
        return clip(grads, max_norm)
    squares = [float((g * g).sum()) for g in grads]
    norm = math.sqrt(sum(squares))
    if norm > max_norm:
        for g in grads:
            g *= max_norm / (norm + 1e-6)
    return norm
