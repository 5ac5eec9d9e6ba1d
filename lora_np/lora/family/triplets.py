r"""Which triplets of an AdaLoRA adapter stay: their scores, and the choice among those of all layers.

Every number w of a triplet has a sensitivity |w·dL/dw| in each step, its running mean I, and the running mean U of how
far the sensitivity is from I:

    I ← β₁I + (1 - β₁)|w·dL/dw|          U ← β₂U + (1 - β₂)| |w·dL/dw| - I |          score = I·U

A triplet's score is that of its λ plus the mean over its row of Q and the mean over its column of P. (Zhang et al.,
2023, equations 8 to 11.) In `allocate` all triplets of all layers compete for one budget.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ...autograd.devices import array_module, to_device, to_numpy
from ..types import Array, Config


class Triplets:
    """The triplets of one layer.

    numbers  which of the init_r triplets these r are
    left     which of these were chosen last, (r,) True or False; None before the first choice
    smooth   {"lora_A": (I, U), ...}: arrays of the tensors' shapes; {} before the first step
    """

    def __init__(self, config: Config, chosen: Sequence[bool]) -> None:
        self.config, self.numbers = config, np.flatnonzero(chosen)
        self.left: Array | None = None
        self.smooth: dict[str, tuple[Array, Array]] = {}

    def watched(self, tensors: Mapping[str, Config]) -> dict[str, tuple[Array, Array]]:
        """`smooth`, with a step in it. tensors: {name: Parameter}. RuntimeError if they have no gradients."""
        found, (beta1, beta2) = {}, (self.config.beta1, self.config.beta2)
        for name, p in tensors.items():
            if p.grad is None and p.size:
                raise RuntimeError(
                    "update_and_allocate needs gradients: call it after loss.backward(), before they are cleared"
                )
            now = abs(p.data * (p.grad if p.size else 0))
            mean, spread = (to_device(a, p.device) for a in self.smooth.get(name, (now * 0, now * 0)))
            mean = beta1 * mean + (1 - beta1) * now
            found[name] = mean, beta2 * spread + (1 - beta2) * abs(now - mean)
        return found

    def scores(self) -> Array:
        """(r,): how much each triplet matters. RuntimeError if no step has been watched."""
        if not self.smooth:
            raise RuntimeError("update_and_allocate has seen no step before this one: call it in each, from step 0 on")
        Q, E, P = (mean * spread for mean, spread in (self.smooth[f"lora_{letter}"] for letter in "AEB"))
        scores: Array = E[:, 0] + (Q.mean(axis=1) + P.mean(axis=0))
        return scores

    def in_place(self, own: Array | None) -> Array:
        """(init_r,): True or False for each of these triplets, None for all of them, counted as at first."""
        found = np.zeros(self.config.init_r, dtype=bool)
        found[self.numbers] = True if own is None else to_numpy(own)
        return found

    def kept(self, E: Array) -> Array | None:
        """(r,): which a file must have: those chosen last, and any whose λ is not zero. None for all."""
        return None if self.left is None else self.left | (E[:, 0] != 0)

    def run_state(self) -> dict[str, Array]:
        """See `Adapter.run_state`."""
        arrays = {f"{name}.{i}": array for name, pair in self.smooth.items() for i, array in enumerate(pair)}
        return arrays if self.left is None else {**arrays, "left": self.left.astype(np.uint8)}

    def put_run_state(self, arrays: Mapping[str, Array], tensors: Mapping[str, Config]) -> None:
        """See `Adapter.put_run_state`. tensors: {name: Parameter}."""
        shapes = {f"{name}.{i}": p.shape for name, p in tensors.items() for i in (0, 1)}
        given = {name: array for name, array in arrays.items() if name != "left"}
        wrong = given and {name: array.shape for name, array in given.items()} != shapes
        if wrong or ("left" in arrays and arrays["left"].shape != (len(self.numbers),)):
            raise ValueError("is of another model: what it knows of its adapters' earlier steps does not fit them")
        left = arrays.get("left")
        self.left = None if left is None else to_device(left.astype(bool), tensors["lora_E"].device)
        self.smooth = {name: (given[f"{name}.0"], given[f"{name}.1"]) for name in tensors} if given else {}


def budget(config: Config, step: int, layers: int) -> int:
    """How many triplets all layers together may have at this step: from init_r each down to target_r. (Equation 12.)"""
    most, least = config.init_r * layers, config.target_r * layers
    last = config.total_step - config.tfinal
    left = 1 - (step - config.tinit) / (last - config.tinit)
    return int((most - least) * left**3 + least)


def allocate(config: Config, layers: Sequence[Triplets], step: int) -> None:
    """Choose the triplets with the highest scores, of all layers together, as many as the budget allows.

    Equal ones stay or go together, as in PEFT.
    """
    scores = [own.scores() for own in layers]
    xp, total = array_module(scores[0]), sum(len(own) for own in scores)
    dropped = total - budget(config, step, len(layers))
    threshold = xp.sort(xp.concatenate(scores))[dropped - 1] if dropped > 0 else -1.0  # no score is negative
    for own, found in zip(layers, scores, strict=True):
        own.left = found > threshold
