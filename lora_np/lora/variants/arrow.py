r"""Arrow: for each token, the adapters are taken whose updates look most in its direction. (Ostapenko et al., 2024,
"Towards Modular LLMs by Building and Reusing a Library of LoRAs".)

    y = base(x) + Σ_e w_e(x) · s_e·B_e(A_e(x)),    w(x) = softmax over the top_k largest of |x · v_e| / temperature

Σ is over the adapters that are beside the same layer: all plain LoRA there but general ones, `gks_adapter_names`. v_e
(in,), |v_e| = 1, is the right singular vector of B_e A_e with the largest singular value: the input that the adapter
changes most. Nothing is trained for it, and no data is needed. With use_gks, the mean of the A's and of the B's of the
general adapters is first taken from each A_e and B_e (GenKnowSub, Bagherifard et al., 2025), so that what remains is
the task's own. Each token has another ΔW, so nothing is merged. The papers' claim: on new tasks better than any one of
the adapters, and than all of them with equal weights; with GenKnowSub again better.

The router has an A and a B, as in PEFT's files, and does not use them where it has a choice. PEFT finds v by 15 steps
of power iteration from a random start (`rng_seed`), which may end elsewhere; here it is exact, and follows adapters
that are being trained. PEFT subtracts in the adapters themselves, which then are others; here they stay as they are.
"""

from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import to_device, to_numpy
from ..adapter import Target
from ..types import Array, Config, Layer
from .whole import OnWholeLayers


class Arrow(OnWholeLayers):
    """The router beside one layer. `neighbours` are the layer's adapters, itself among them."""

    setting = "arrow_config"
    idle_if_zero: str | None = None
    looks_beside = True

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.settings = config.arrow_config

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        general, k = self.settings.gks_adapter_names or (), self.settings.top_k
        experts = [a for name, a in self.neighbours.items() if a.plain and name not in general]
        if not experts:
            return self.branch(x)  # its own B is zero
        if k > len(experts):
            raise ValueError(f"arrow_config: top_k={k} is more than the {len(experts)} adapters that there are")
        pairs = self._purified([expert.matrices() for expert in experts], general)
        weights, total = self._weights(x, pairs), None
        for e, (expert, (A, B)) in enumerate(zip(experts, pairs, strict=True)):
            part = F.linear(F.linear(x, A), B) * weights[..., e : e + 1] * expert.scaling
            total = part if total is None else total + part
        return self.lora_dropout(total)

    def _purified(self, pairs, general):
        """The pairs (A, B) less the means of those of the general adapters, with use_gks."""
        if not self.settings.use_gks:
            return pairs
        missing = [name for name in general if name not in self.neighbours]
        if missing or not general:
            lacks = f"{', '.join(missing)} is not there" if missing else "none is there"
            raise ValueError(f"arrow_config: use_gks needs general adapters; {lacks}")
        others = [self.neighbours[name].matrices() for name in general]
        means = [sum(found[1:], found[0]) * (1 / len(found)) for found in zip(*others, strict=True)]
        if any(p.shape != mean.shape for pair in pairs for p, mean in zip(pair, means, strict=True)):
            raise ValueError("arrow_config: with use_gks all adapters must have the same rank")
        return [(A - means[0], B - means[1]) for A, B in pairs]

    def _weights(self, x: Tensor, pairs: Any) -> Any:
        """w (..., experts): a softmax, with zeros but for the top_k largest."""
        found: Any = F.linear(x, to_device(np.stack([direction(A.data, B.data) for A, B in pairs]), x.device))
        found = abs(found)
        sizes = to_numpy(found.data)
        chosen = np.full_like(sizes, -np.inf)
        np.put_along_axis(chosen, np.argsort(-sizes, axis=-1)[..., : self.settings.top_k], 0, axis=-1)
        return (found * (1 / self.settings.router_temperature) + to_device(chosen, x.device)).softmax(-1)

    def delta_weight(self) -> Array:
        raise ValueError("Arrow chooses adapters for each token, so that it has no update to merge: use it as it is")


def direction(A: Array, B: Array) -> Array:
    """v (in,): the right singular vector of B A with the largest singular value; zeros where B A is zero.

    With Aᵀ = Q R, B A = (B Rᵀ) Qᵀ, so that v = Q w, w the first right singular vector of B Rᵀ (out, r). In float32 or
    better.
    """
    dtype = np.result_type(A.dtype, np.float32)
    A, B = (to_numpy(X).astype(dtype, copy=False) for X in (A, B))
    Q, R = np.linalg.qr(A.T)
    small = B @ R.T
    values, vectors = np.linalg.eigh(small.T @ small)  # (r, r): the largest is the last
    return Q @ vectors[:, -1] if values[-1] > 0 else np.zeros(len(Q), Q.dtype)
