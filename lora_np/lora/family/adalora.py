r"""AdaLoRA: LoRA in the form of a singular value decomposition, whose ranks go to the layers that need them.

    y = base(x) + s·P(Λ ∘ Q(dropout(x)))          ΔW = s·P diag(Λ) Q,   s = lora_alpha / init_r

Q (r, in) is `lora_A`, Λ (r, 1) `lora_E`, P (out, r) `lora_B`: r (in + out + 1) numbers are trained. A row of Q, its λ
and its column of P are a triplet. The loss gets orth_reg_weight times the mean of ‖QQᵀ - I‖ and ‖PᵀP - I‖ over all
layers (Frobenius norms), so that triplets stay apart and |λ| says how much one does. As in PEFT it is part of `.loss`,
also in evaluation, of a PeftModel with a `task_type`, and of its `base_model`. Λ is zero at first, so that training
starts at the base model. It merges.

All layers begin with init_r triplets. At each step every number w of them has a sensitivity |w·dL/dw|, smoothed to I
with beta1, and an uncertainty, the smoothed (beta2) distance from I. A triplet's score is the product of the two at λ,
plus the means over its row and its column. After step tinit, every deltaT steps, the triplets with the lowest scores
get λ = 0; the budget of those that stay falls as a cube from all to target_r a layer, and they may come back. At step
total_step - tfinal the choice is final. `update_and_allocate(step)` does this, after `optimizer.step()` and before the
gradients are cleared; `train` calls it.

A file holds the triplets that are left, and in `rank_pattern` which of the init_r they are. The rank of ΔW is their
number. s stays.

Source: Zhang et al., 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (equations 3 to 12, and
algorithm 1). Its claim: better than LoRA at equal budgets on GLUE, SQuAD and summaries, most of all at small ones.

Differences from PEFT: a triplet whose λ is not zero is saved, also where it was not chosen last (PEFT drops it, and the
file is another model); a frozen adapter and a disabled one leave the loss as it is (PEFT fails, or adds the term); a
budget of all triplets drops none (PEFT fails); what PEFT silently ignores is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module, to_device, to_numpy
from ...autograd.tensor import record
from ...keywords import Unused
from ...refusals import warn
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..config import NOT_IN_LORA, LoraConfig
from ..patterns import shortened
from ..peft_config import PeftType, check_alpha, check_rank
from ..types import Array, Layer

OWN_SCALE = "AdaLoRA's scale is lora_alpha / init_r"
NOT_IN_ADALORA = {
    "use_dora": Unused("DoRA does not go with AdaLoRA"),
    "use_rslora": Unused(OWN_SCALE),
    "alpha_pattern": Unused(f"{OWN_SCALE} in all layers", ({},)),
    "lora_bias": Unused("AdaLoRA's branch has no bias"),
    "trainable_token_indices": Unused("with AdaLoRA no rows of an embedding are trained; LoraConfig has it", ([], {})),
    "ensure_weight_tying": Unused("AdaLoRA adapts no embeddings"),
}


@dataclass
class AdaLoraConfig(LoraConfig):
    """The settings of an AdaLoRA adapter; see `LoraConfig` for the others. `r` does nothing.

    target_r     triplets that a layer has at the end, on average; if more than init_r, none is dropped
    init_r       triplets that each layer has at first
    tinit        steps before the first is dropped
    tfinal       steps, the last ones, in which the choice stays
    deltaT       steps from one choice to the next
    beta1, beta2 how slowly sensitivities and uncertainties change, in (0, 1)
    orth_reg_weight   the weight of the term in the loss
    total_step   steps of the training. Needed
    rank_pattern {"transformer.h.0.attn.c_attn.lora_E": [True, False, ...]}: the triplets that are left
    """

    peft_type: PeftType | str | None = PeftType.ADALORA
    rank_pattern: dict[str, list[bool]] | None = None  # type: ignore[assignment]
    target_r: int = 8
    init_r: int = 12
    tinit: int = 0
    tfinal: int = 0
    deltaT: int = 1  # noqa: N815
    beta1: float = 0.85
    beta2: float = 0.85
    orth_reg_weight: float = 0.5
    total_step: int | None = None

    __repr__ = changed_settings
    unsupported = NOT_IN_LORA | NOT_IN_ADALORA
    prefix, patterns = "lora", ()

    def __post_init__(self):
        pattern, self.rank_pattern = self.rank_pattern, {}
        if self.init_lora_weights not in (True, False, None):
            raise ValueError(f"init_lora_weights must be True or False, got {shortened(self.init_lora_weights)}")
        super().__post_init__()
        for name in ("target_r", "init_r", "deltaT"):
            check_rank(name, getattr(self, name))
        self._check_schedule()
        self.rank_pattern = self._checked(pattern)
        if self.r != 8:
            warn("AdaLoRA does not use r: init_r is the rank at first, and target_r that at the end")

    def _check_schedule(self):
        for name in ("tinit", "tfinal"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"{name} must be an integer of at least 0, got {shortened(getattr(self, name))}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ValueError(f"{name} must be in (0, 1), got {shortened(value)}")
        check_alpha("orth_reg_weight", self.orth_reg_weight)
        if self.orth_reg_weight < 0:
            raise ValueError(f"orth_reg_weight must be at least 0, got {self.orth_reg_weight}")
        if type(self.total_step) is not int or self.total_step < 1:
            raise ValueError(
                f"total_step must be the number of steps of the training, at least 1, got {shortened(self.total_step)}"
            )
        if self.tinit >= self.total_step - self.tfinal:
            raise ValueError(
                f"tinit = {self.tinit} and tfinal = {self.tfinal} leave none of total_step = {self.total_step} steps for "
                "the choice of ranks"
            )

    def _checked(self, pattern):
        """rank_pattern, or ValueError."""
        if not pattern:
            return None
        for key, chosen in pattern.items() if isinstance(pattern, dict) else [("", None)]:
            bits = isinstance(chosen, list) and all(isinstance(bit, bool) for bit in chosen)
            if not isinstance(key, str) or not bits or len(chosen) != self.init_r:
                raise ValueError(
                    "rank_pattern must be a dict from names such as 'h.0.attn.c_attn.lora_E' to lists of init_r = "
                    f"{self.init_r} times True or False, got {shortened(pattern if chosen is None else {key: chosen})}"
                )
        return pattern

    def chosen(self, name: str) -> list[bool]:
        """Which of the init_r triplets the layer of this dotted name has."""
        for key, chosen in (self.rank_pattern or {}).items():
            if key == f"{name}.lora_E":  # as in a file: in memory the adapter's name comes after it, as in PEFT
                return chosen
        return [True] * self.init_r

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(the number of triplets, lora_alpha) of the layer with this dotted name."""
        return sum(self.chosen(name)), self.lora_alpha

    def budget(self, step: int, most: int, layers: int) -> int:
        """How many triplets all layers together may have at this step, of `most` at first. (Equation 12.)"""
        least, last = self.target_r * layers, self.total_step - self.tfinal
        left = 1 - (step - self.tinit) / (last - self.tinit)
        return int((most - least) * left**3 + least)

    def in_file_of(self, adapters: Mapping[str, Any]) -> dict[str, Any]:
        """`rank_pattern` as the adapters are saved now."""
        saved = {f"{name}.lora_E": adapter.saved_triplets().tolist() for name, adapter in adapters.items()}
        untouched = all(a.left is None and len(a.numbers) == self.init_r for a in adapters.values())
        return {"rank_pattern": None if untouched else saved}


class AdaLoraAdapter(Adapter):
    """Q, Λ and P beside one linear layer: `lora_A`, `lora_E` and `lora_B`.

    numbers  which of the init_r triplets these are
    left     which of these were chosen last, (r,) True or False; None before the first choice
    smooth   {a tensor's name: (sensitivity, uncertainty)}, arrays of its shape
    """

    together = True
    model_methods = {"update_and_allocate": "after_step"}

    def __init__(self, config: AdaLoraConfig, target: Target) -> None:
        layer, self.r, self.lora_alpha = target.layer, target.r, target.lora_alpha
        self.scaling, self.ranknum = self._usual_scaling(config), config.init_r
        spread, first = (0.02, 0.0) if config.init_lora_weights else (1.0, 1.0)
        self.lora_A = nn.Parameter(nn.normal((self.r, layer.in_features), spread))
        self.lora_E = nn.Parameter(nn.normal((self.r, 1), 1.0) if first else nn.zeros((self.r, 1)))
        self.lora_B = nn.Parameter(nn.normal((layer.out_features, self.r), spread))
        self.lora_dropout = nn.Dropout(config.lora_dropout)
        self.config, self.numbers = config, np.flatnonzero(config.chosen(target.name))[: self.r]
        self.idle_if_zero = "lora_E" if self.r else None
        self.left: Array | None = None
        self.smooth: dict[str, tuple[Array, Array]] = {}

    def faster_parameters(self) -> list[nn.Parameter]:
        """P: the Parameter that LoRA+ gives a higher rate."""
        return [self.lora_B]

    def _usual_scaling(self, config):
        """lora_alpha; as in PEFT, init_r where that is not above zero."""
        return self.lora_alpha if self.lora_alpha > 0 else float(config.init_r)

    def factor(self) -> float:
        """s. (PEFT divides by init_r + 0.00001.)"""
        return self.scaling / (self.ranknum + 1e-5)

    def applied(self, layer: Layer, x: Tensor, base: Tensor, y: Any) -> Tensor:
        """y + update; y where no triplet is left."""
        return y + self.update(layer, x, base) if self.r else y

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """s·P(Λ ∘ Q(dropout(x)))."""
        return F.linear(F.linear(self.lora_dropout(x), self.lora_A * self.lora_E), self.lora_B) * self.factor()

    def delta_weight(self) -> Array:
        return (self.lora_B.data @ (self.lora_A.data * self.lora_E.data)) * self.factor()

    def rescale(self, factor: float) -> None:
        """s = factor · lora_alpha / init_r."""
        self.scaling = factor * self._usual_scaling(self.config)

    def kept(self) -> Array:
        """(r,): which triplets a file must have: those chosen last, and any whose λ is not zero."""
        everything = np.ones(self.r, bool)
        return everything if self.left is None else to_numpy(self.left) | (to_numpy(self.lora_E.data)[:, 0] != 0)

    def saved_triplets(self) -> Array:
        """(init_r,): `kept`, counted as at first."""
        saved = np.zeros(self.config.init_r, bool)
        saved[self.numbers[self.kept()]] = True
        return saved

    def saved_arrays(self) -> dict[str, Array]:
        arrays = super().saved_arrays()
        rows = array_module(self.lora_E.data).asarray(self.kept())
        return {name: array[:, rows] if name == "lora_B" else array[rows] for name, array in arrays.items()}

    @classmethod
    def loss_term(cls, config: AdaLoraConfig, adapters: Sequence["AdaLoraAdapter"]) -> Tensor | None:
        """orth_reg_weight times the mean of ‖QQᵀ - I‖ and ‖PᵀP - I‖ over these adapters."""
        if config.orth_reg_weight == 0:
            return None
        distances = [
            distance for a in adapters for distance in (from_orthogonal(a.lora_A), from_orthogonal(a.lora_B, True))
        ]
        return sum(distances[1:], distances[0]) * (config.orth_reg_weight / len(distances))

    @classmethod
    def after_step(cls, config: AdaLoraConfig, name: str, adapters: Mapping[str, "AdaLoraAdapter"], step: int) -> None:
        """Watch this step, and if it is time for it choose the triplets that stay.

        RuntimeError if there are no gradients to look at.
        """
        last = config.total_step - config.tfinal  # type: ignore[operator]
        if step == 0 and config.orth_reg_weight and not config.task_type:
            warn(
                "AdaLoRA: as in PEFT, a model without a task_type has no orthogonality in its loss; give it 'CAUSAL_LM'"
            )
        if step < last:
            watched = [adapter.watched() for adapter in adapters.values()]
            for adapter, smooth in zip(adapters.values(), watched, strict=True):
                adapter.smooth = smooth
        if step == last or (config.tinit < step < last and step % config.deltaT == 0):
            allocate(config, list(adapters.values()), step)
        for adapter in adapters.values() if step >= last else ():
            adapter.choose(adapter.left)
            adapter.smooth = {}
        if any(adapter.left is not None for adapter in adapters.values()):
            numbers = {f"{target}.lora_E.{name}": adapter.chosen_triplets() for target, adapter in adapters.items()}
            config.rank_pattern = numbers

    def watched(self) -> dict[str, tuple[Array, Array]]:
        """{name: (I, U)} with this step: I ← β₁I + (1 - β₁)|w·dw|, then U ← β₂U + (1 - β₂)||w·dw| - I|."""
        found, (beta1, beta2) = {}, (self.config.beta1, self.config.beta2)
        for name, p in self.tensors().items():
            if p.grad is None and self.r:
                raise RuntimeError(
                    "update_and_allocate needs gradients: call it after loss.backward(), before they are cleared"
                )
            now = abs(p.data * (p.grad if self.r else 0))
            mean, spread = (to_device(a, p.device) for a in self.smooth.get(name, (now * 0, now * 0)))
            mean = beta1 * mean + (1 - beta1) * now
            found[name] = mean, beta2 * spread + (1 - beta2) * abs(now - mean)
        return found

    def scores(self) -> Array:
        """(r,): how much each triplet matters."""
        if not self.smooth:
            raise RuntimeError("update_and_allocate has seen no step before this one: call it in each, from step 0 on")
        Q, E, P = (mean * spread for mean, spread in (self.smooth[f"lora_{letter}"] for letter in "AEB"))
        return E[:, 0] + (Q.mean(axis=1) + P.mean(axis=0))

    def choose(self, left: Array | None) -> None:
        """λ ← 0 where `left`, (r,) True or False, is not; None leaves all."""
        self.left = left
        if left is not None:
            self.lora_E.data = array_module(left).where(left[:, None], self.lora_E.data, 0)

    def chosen_triplets(self) -> list[bool]:
        """Which of the init_r triplets were chosen last."""
        chosen = np.zeros(self.config.init_r, bool)
        chosen[self.numbers] = True if self.left is None else to_numpy(self.left)
        return chosen.tolist()

    def run_state(self) -> dict[str, Array]:
        arrays = {f"{name}.{i}": array for name, pair in self.smooth.items() for i, array in enumerate(pair)}
        return arrays if self.left is None else {**arrays, "left": self.left.astype(np.uint8)}

    def put_run_state(self, arrays: Mapping[str, Array]) -> None:
        shapes = {f"{name}.{i}": p.shape for name, p in self.tensors().items() for i in (0, 1)}
        given = {name: array for name, array in arrays.items() if name != "left"}
        wrong = given and {name: array.shape for name, array in given.items()} != shapes
        if wrong or ("left" in arrays and arrays["left"].shape != (self.r,)):
            raise ValueError("is of another model: what it knows of its adapters' earlier steps does not fit them")
        left, device = arrays.get("left"), self.lora_E.device
        self.left = None if left is None else to_device(left.astype(bool), device)
        self.smooth = {n: (given[f"{n}.0"], given[f"{n}.1"]) for n in self.tensors()} if given else {}


def from_orthogonal(p: nn.Parameter, columns: bool = False) -> Tensor:
    r"""f = ‖C‖, C = M Mᵀ - I, M = p (n, m) or with `columns` its transpose: are M's rows at right angles, of length 1?

    dM = 2 df C M / f, and 0 where f is (its derivative has no value there). Saves C and M.
    """
    M = p.data.T if columns else p.data
    xp = array_module(M)
    C = M @ M.T - xp.eye(len(M), dtype=M.dtype)
    f = xp.sqrt((C * C).sum())

    def backward(df):
        dM = (2 * df / xp.maximum(f, np.finfo(M.dtype).tiny)) * (C @ M)
        return (dM.T if columns else dM,)

    return record(f, (p,), backward)


def allocate(config: AdaLoraConfig, adapters: Sequence[AdaLoraAdapter], step: int) -> None:
    """Choose the triplets of all layers with the highest scores, as many as the budget allows. (Equations 6 to 11.)"""
    scores = [adapter.scores() for adapter in adapters]
    total, xp = sum(len(own) for own in scores), array_module(scores[0])
    dropped = total - config.budget(step, config.init_r * len(adapters), len(adapters))
    if dropped <= 0:
        chosen = [xp.ones(len(own), bool) for own in scores]
    else:
        threshold = xp.sort(xp.concatenate(scores))[dropped - 1]
        chosen = [own > threshold for own in scores]
    for adapter, left in zip(adapters, chosen, strict=True):
        adapter.choose(left)
