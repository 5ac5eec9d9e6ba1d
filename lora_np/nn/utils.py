"""Gradients that are too large, and lists of parameters: what torch has as `nn.utils`."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..autograd import Tensor
from ..autograd.devices import array_module
from ..autograd.dispatch import implementation
from ..expect import expect, expect_list, expect_number, wrong
from .module import Module

A_LIST = "a list of parameters, such as model.parameters()"


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Any:
    """Scale all gradients together so that their joint Euclidean norm is at most `max_norm`; returns the norm before.

    The direction of the step stays, only its length is bounded (Pascanu et al., 2013). The norm is a float; on a GPU
    it is an array there, so that the host need not wait for it. Other norms than the Euclidean are a ValueError.
    """
    expect_number(max_norm, "max_norm")
    if norm_type != 2:
        raise ValueError(f"norm_type should be 2, the Euclidean norm, got {norm_type!r}: there is no other one here")
    parameters = _with_gradients(parameters)
    grads = [p.grad for p in parameters]
    arrays = [array for p in parameters for array in (p.data, p.grad)]
    if arrays and not error_if_nonfinite and (clip := implementation("clip", arrays)) is not None:
        return clip(grads, max_norm)
    wide = (g.astype(np.result_type(g.dtype, np.float32), copy=False) for g in grads)  # in 16 bits sums stand still
    squares = [float((g * g).sum()) for g in wide]
    norm = math.sqrt(sum(squares))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the norm of the gradients is {norm}: nothing was scaled")
    if norm > max_norm:
        for g in grads:
            g *= max_norm / (norm + 1e-6)
    return np.float64(norm)  # a float that also has .item()


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Move each number of each gradient to ±`clip_value` where it lies beyond: the step's direction changes."""
    expect_number(clip_value, "clip_value")
    for p in _with_gradients(parameters):
        array_module(p.grad).clip(p.grad, -clip_value, clip_value, out=p.grad)


def _with_gradients(parameters: Any) -> list[Any]:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters_in(parameters)
    return [p for p in parameters if p.grad is not None]


def parameters_in(params: Any) -> list[Any]:
    """The parameters that a user gives, or groups of them, as a list; TypeError if it is something else."""
    if isinstance(params, Module | Tensor):
        raise TypeError(wrong(params, "params", A_LIST))
    found = expect_list(params, "params", A_LIST)
    for p in found:
        expect(p, Tensor | dict, "each of params", "a Parameter, or a dict with the parameters of a group")
    return found
