r"""AdaLoRA: LoRA in the form of a singular value decomposition, whose ranks go to the layers that need them.

    y = base(x) + s·P(Λ ∘ Q(dropout(x)))          ΔW = s·P diag(Λ) Q,   s = lora_alpha / init_r

Q (r, in) is `lora_A`, Λ (r, 1) `lora_E`, P (out, r) `lora_B`: r (in + out + 1) numbers are trained. A row of Q, its λ
and its column of P are a triplet. The loss gets orth_reg_weight times the mean of ‖QQᵀ - I‖ and ‖PᵀP - I‖ over all
layers (Frobenius norms), so that triplets stay apart and |λ| says how much one does. As in PEFT it is part of `.loss`,
also in evaluation, of a PeftModel with a `task_type`, and of its `base_model`. Λ is zero at first, so that training
starts at the base model. It merges.

All layers begin with init_r triplets. Each has a score, from its gradients in all steps (`triplets.py`). After step
tinit, every deltaT steps, the triplets with the lowest scores get λ = 0; the budget of those that stay falls as a cube
from all to target_r a layer, and they may come back. At step total_step - tfinal the choice is final.
`update_and_allocate(step)` does this, after `optimizer.step()` and before the gradients are cleared; `train` calls it.

A file holds the triplets that are left, and in `rank_pattern` which of the init_r they are. The rank of ΔW is their
number. s stays.

Source: Zhang et al., 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", algorithm 1. Its
claim: better than LoRA at equal budgets on GLUE, SQuAD and summaries, most of all at small ones.

Differences from PEFT: a triplet whose λ is not zero is saved, also where it was not chosen last (PEFT drops it, and the
file is another model); a frozen adapter and a disabled one leave the loss as it is (PEFT fails, or adds the term); a
budget of all triplets drops none (PEFT fails); what PEFT silently ignores is refused, but for `use_rslora`, of which
a warning tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.arrangement import stack
from ...autograd.devices import array_module, to_device
from ...autograd.dispatch import matmul
from ...autograd.ops import mul
from ...autograd.tensor import record
from ...keywords import Unused
from ...refusals import warn
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..config import NOT_IN_LORA, LoraConfig
from ..patterns import shortened
from ..peft_config import PeftType, check_alpha, check_rank
from ..types import Array, Layer
from .triplets import Triplets, allocate

OF_LORA = Unused("it is for LoraConfig: AdaLoRA begins and trains in its own way", (False, [], {}))
OWN_SCALE = "its scale is lora_alpha / init_r"
OF_LORA_ALONE = (
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "alora_invocation_tokens"),
    *("use_qalora", "monteclora_config", "layer_replication", "target_parameters", "use_bdlora", "arrow_config"),
    "kasa_config",
)
NOT_IN_ADALORA = {
    "use_dora": Unused("DoRA does not go with AdaLoRA"),
    "alpha_pattern": Unused(f"{OWN_SCALE} in all layers", ({},)),
    "lora_bias": Unused("AdaLoRA's branch has no bias"),
    "trainable_token_indices": Unused("with AdaLoRA no rows of an embedding are trained; LoraConfig has it", ([], {})),
    "ensure_weight_tying": Unused("AdaLoRA adapts no embeddings"),
}


@dataclass
class AdaLoraConfig(LoraConfig):
    """The settings of an AdaLoRA adapter; see `LoraConfig` for the others. `r` and `use_rslora` do nothing.

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
    unsupported = dict.fromkeys(OF_LORA_ALONE, OF_LORA) | NOT_IN_LORA | NOT_IN_ADALORA
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
        if self.use_rslora:
            warn(f"AdaLoRA does not use use_rslora: {OWN_SCALE}")

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
                f"tinit = {self.tinit} and tfinal = {self.tfinal} leave none of total_step = {self.total_step} steps "
                "for the choice of ranks"
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

    @property
    def last_choice(self) -> int:
        """The step after which the choice stays."""
        return self.total_step - self.tfinal  # type: ignore[operator]

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(the number of triplets, lora_alpha) of the layer with this dotted name."""
        return sum(self.chosen(name)), self.lora_alpha

    def in_file_of(self, adapters: Mapping[str, Any]) -> dict[str, Any]:
        """`rank_pattern` as the adapters are saved now; None if no triplet was ever dropped."""
        if all(a.triplets.left is None and a.r == self.init_r for a in adapters.values()):
            return {"rank_pattern": None}
        return {"rank_pattern": {f"{name}.lora_E": a.saved_triplets().tolist() for name, a in adapters.items()}}


class AdaLoraAdapter(Adapter):
    """Q, Λ and P beside one linear layer: `lora_A`, `lora_E` and `lora_B`."""

    together = True
    reported = "adalora.SVDLinear"
    model_methods = {"update_and_allocate": "after_step"}

    def __init__(self, config: AdaLoraConfig, target: Target) -> None:
        layer, r, self.lora_alpha = target.layer, target.r, target.lora_alpha
        self.config, self.r = config, r
        self.scaling = self._usual_scaling()
        spread = 0.02 if config.init_lora_weights else 1.0
        self.lora_A = nn.Parameter(nn.normal((r, layer.in_features), spread))
        self.lora_E = nn.Parameter(nn.zeros((r, 1)) if config.init_lora_weights else nn.normal((r, 1), 1.0))
        self.lora_B = nn.Parameter(nn.normal((layer.out_features, r), spread))
        self.lora_dropout = nn.Dropout(config.lora_dropout)
        self.triplets = Triplets(config, config.chosen(target.name))
        self.idle_if_zero = "lora_E" if r else None

    def faster_parameters(self) -> list[nn.Parameter]:
        """P: the Parameter that LoRA+ gives a higher rate."""
        return [self.lora_B]

    def _usual_scaling(self):
        """lora_alpha; as in PEFT, init_r where that is not above zero."""
        return self.lora_alpha if self.lora_alpha > 0 else float(self.config.init_r)

    def factor(self) -> float:
        """s. (PEFT divides by init_r + 0.00001.)"""
        return self.scaling / (self.config.init_r + 1e-5)

    def applied(self, layer: Layer, x: Tensor, base: Tensor, y: Any) -> Tensor:
        """y + update; y where no triplet is left."""
        return y + self.update(layer, x, base) if self.r else y

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """s·P(Λ ∘ Q(dropout(x)))."""
        rows = mul(self.lora_A, self.lora_E)
        return F.linear(F.linear(self.lora_dropout(x), rows), self.lora_B) * self.factor()

    def delta_weight(self) -> Array:
        return matmul(self.lora_B.data, self.lora_A.data * self.lora_E.data) * self.factor()

    def rescale(self, factor: float) -> None:
        """s = factor · lora_alpha / init_r."""
        self.scaling = factor * self._usual_scaling()

    def saved_triplets(self) -> Array:
        """(init_r,): which triplets are in a file that is written now."""
        return self.triplets.in_place(self.triplets.kept(self.lora_E.data))

    def saved_arrays(self) -> dict[str, Array]:
        kept, arrays = self.triplets.kept(self.lora_E.data), super().saved_arrays()
        if kept is None:
            return arrays
        return {name: array[:, kept] if name == "lora_B" else array[kept] for name, array in arrays.items()}

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        """Put the triplets that a file had of this adapter in their places, among those that are dropped (λ = 0)."""
        kept, own = self.triplets.kept(self.lora_E.data), self.tensors()
        if kept is None:
            return
        for name, p in own.items():
            array, whole = arrays.get(prefix + name), p.data.copy()
            places = (slice(None), kept) if name == "lora_B" else (kept,)
            if array is not None and array.shape == whole[places].shape != whole.shape:
                whole[places] = to_device(array, p.device)
                arrays[prefix + name] = whole

    @classmethod
    def loss_term(cls, config: AdaLoraConfig, adapters: Sequence["AdaLoraAdapter"]) -> Tensor | None:
        """orth_reg_weight times the mean of ‖QQᵀ - I‖ and ‖PᵀP - I‖ over these adapters."""
        if config.orth_reg_weight == 0:
            return None
        found = [from_orthogonal(a.lora_A) for a in adapters] + [from_orthogonal(a.lora_B, True) for a in adapters]
        return stack(found).mean() * config.orth_reg_weight

    @classmethod
    def after_step(cls, config: AdaLoraConfig, name: str, adapters: Mapping[str, "AdaLoraAdapter"], step: int) -> None:
        """Watch this step, and if it is time for it choose the triplets that stay.

        RuntimeError if there are no gradients to look at.
        """
        own, last = list(adapters.values()), config.last_choice
        if step == 0 and config.orth_reg_weight and not config.task_type:
            warn("AdaLoRA: as in PEFT, the loss of a model without a task_type lacks the term; give it 'CAUSAL_LM'")
        if step < last:
            for adapter, smooth in zip(own, [a.triplets.watched(a.tensors()) for a in own], strict=True):
                adapter.triplets.smooth = smooth
        chooses = step == last or (config.tinit < step < last and step % config.deltaT == 0)
        if chooses:
            allocate(config, [adapter.triplets for adapter in own], step)
        for adapter in own if chooses or step > last else ():
            adapter.drop(step >= last)
        if any(adapter.triplets.left is not None for adapter in own):
            names = {f"{target}.lora_E.{name}": adapter.triplets for target, adapter in adapters.items()}
            config.rank_pattern = {key: triplets.in_place(triplets.left).tolist() for key, triplets in names.items()}

    def drop(self, for_good: bool) -> None:
        """λ ← 0 for triplets that were not chosen. for_good: no other choice will come."""
        left, E = self.triplets.left, self.lora_E.data
        if left is not None:
            self.lora_E.data = array_module(E).where(left[:, None], E, E.dtype.type(0))
        if for_good:
            self.triplets.smooth = {}

    def run_state(self) -> dict[str, Array]:
        return self.triplets.run_state()

    def put_run_state(self, arrays: Mapping[str, Array]) -> None:
        self.triplets.put_run_state(arrays, self.tensors())


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
