"""The A and B of LoRA in a model, as optimizers for LoRA see them: pairs, and the inverses of their (r, r) products."""

import numpy as np

from ... import nn
from ...autograd.devices import array_module
from ...lora.layer import LowRankAdapter
from ...lora.lora_model import adapters_in
from ...lora.variants import PartialProjection
from ..protocols import Array

WHOLE = [(slice(None), slice(None))]


def linear_adapters(model: nn.Module) -> list[LowRankAdapter]:
    """The adapters in a model with an A and a B of their own beside linear layers."""
    found = [adapter for adapter in adapters_in(model) if isinstance(adapter, LowRankAdapter)]
    return [adapter for adapter in found if all(isinstance(X, nn.Parameter) for X in adapter.matrices())]


def pairs(adapter: LowRankAdapter) -> list[tuple[slice, slice]]:
    """[(rows of A, rows of B)] of its pairs: all of both, but for parts of a projection, which have one each."""
    return adapter.pairs() if isinstance(adapter, PartialProjection) else WHOLE


def times_inverse(grad: Array, A: Array, damping: float) -> Array:
    """g (A Aᵀ + damping·I)⁻¹, with g (out, r) and A (r, in): in g's dtype, the inverse in float32 or better.

    The pseudoinverse, with torch's limit: A may have rows that depend on each other.
    """
    xp, r = array_module(A), len(A)
    A = A.astype(np.result_type(A.dtype, np.float32), copy=False)
    inverse = xp.linalg.pinv(A @ A.T + damping * xp.eye(r, dtype=A.dtype), rcond=r * float(np.finfo(A.dtype).eps))
    return (grad @ inverse).astype(grad.dtype, copy=False)
