"""The settings of LoRA, under PEFT's names; what all kinds share is in `peft_config.py`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..keywords import Unused
from ..settings import changed_settings
from .adapter import Target
from .init import FROM_LAYERS, INITS, MOST_ITERATIONS, changes_base, initial_matrices, is_known
from .kinds import SPECIAL
from .patterns import checked_patterns, first_match, shortened
from .peft_config import PeftConfig, PeftType, check_alpha, check_dropout, check_rank
from .replication import check_replication
from .special import check_parameters, check_special
from .types import Array

NOT_IN_LORA = {  # PEFT's fields of LoraConfig for things that are not here: why, and the values that mean nothing
    "megatron_config": Unused("Megatron's parallel layers are not here"),
    "megatron_core": Unused(),
    "runtime_config": Unused(),
}


@dataclass
class LoraConfig(PeftConfig):
    """The settings of one LoRA adapter; see `PeftConfig` for target_modules and what else all kinds share.

    r                    rank: A is (r, in), B is (out, r)
    lora_alpha           the update is scaled by lora_alpha / r
    lora_dropout         dropout probability on the input of the low-rank branch, in training only
    exclude_modules      which of the target_modules are left out after all: a list of names or a regular expression
    rank_pattern         {name or regular expression: r} for layers with a rank of their own; the first match counts
    alpha_pattern        {name or regular expression: lora_alpha}, likewise
    lora_bias            whether the branch has a bias of its own, on B
    init_lora_weights    how A and B are initialised: True, False, "gaussian", "orthogonal", "pissa", "pissa_niter_N",
                         "olora", "mica"; see `init.py`. Or "eva", "corda", "lora_ga", "loftq"; see `starts/`
    loftq_config, eva_config, corda_config, lora_ga_config   their settings: `LoftQConfig` and so on
    use_rslora           scale by lora_alpha / √r instead, so that the update's size does not shrink with r
    use_dora             learn the length of each row of W apart from its direction; see `variants/dora.py`
    trainable_token_indices   tokens whose rows of the embedding are trained too: a list, or {module's name: list}; a
                         tied head follows. See `variants/tokens.py`
    ensure_weight_tying  a head that is tied to the embedding is adapted, or trained whole, as one with it, if
                         target_modules or modules_to_save name "embed_tokens" or "lm_head"; see `variants/tied.py`
    alora_invocation_tokens   act from the last occurrence of these tokens on only; see `variants/alora.py`
    layer_replication    which blocks the model is to have, some of them twice; see `replication.py`
    use_qalora           an update that is the same for each qalora_group_size inputs; see `variants/qalora.py`
    arrow_config         an `ArrowConfig`: a router among the adapters of a layer; see `variants/arrow.py`
    kasa_config          a `KasaConfig`: an update in the place of W's smallest singular values; see `variants/kasa.py`
    velora_config        a `VeloraConfig`: A's gradient from smaller activations; see `variants/velora.py`
    use_bdlora           a `BdLoraConfig`: A or B in blocks; see `variants/bdlora.py`
    target_parameters    weights to adapt as they are stored: a list of names, "c_attn.weight"; target_modules may then
                         be []. See `variants/parameter.py`
    The other fields are PEFT's for things that are not here: a value that would do something is a ValueError.
    """

    peft_type: PeftType | str | None = PeftType.LORA
    r: int = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    megatron_config: dict[str, Any] | None = None
    megatron_core: str | None = "megatron.core"
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    loftq_config: Any = field(default_factory=dict)
    eva_config: Any = None
    corda_config: Any = None
    lora_ga_config: Any = None
    use_dora: bool = False
    velora_config: Any = None
    alora_invocation_tokens: list[int] | None = None
    use_qalora: bool = False
    qalora_group_size: int = 16
    monteclora_config: Any = None
    layer_replication: list[tuple[int, int]] | None = None
    runtime_config: Any = None
    lora_bias: bool = False
    target_parameters: list[str] | None = None
    use_bdlora: Any = None
    arrow_config: Any = None
    kasa_config: Any = None
    ensure_weight_tying: bool = False

    __repr__ = changed_settings
    flags = ("use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying")
    unsupported = NOT_IN_LORA
    harmless = PeftConfig.harmless | {"runtime_config"}  # how PEFT runs it

    def __post_init__(self):
        self.rank_pattern = checked_patterns("rank_pattern", self.rank_pattern, check_rank, ": r")
        self.alpha_pattern = checked_patterns("alpha_pattern", self.alpha_pattern, check_alpha, ": lora_alpha")
        check_rank("r", self.r)
        check_alpha("lora_alpha", self.lora_alpha)
        check_dropout("lora_dropout", self.lora_dropout)
        check_rank("qalora_group_size", self.qalora_group_size)
        super().__post_init__()
        self._check_init()
        self.trainable_token_indices = check_tokens(self.trainable_token_indices)
        self.target_parameters = check_parameters(self.target_parameters)
        check_special(self)
        check_replication(self.layer_replication)

    def _check_init(self):
        if isinstance(self.init_lora_weights, str):
            self.init_lora_weights = self.init_lora_weights.lower()  # PEFT takes "OLoRA" too
        if self.init_lora_weights is None:  # in PEFT, as False
            self.init_lora_weights = False
        kind = self.init_lora_weights
        if not is_known(kind):
            known = ", ".join(map(repr, (*INITS, *FROM_LAYERS)))
            raise ValueError(
                f"init_lora_weights must be one of {known} or 'pissa_niter_N', N up to {MOST_ITERATIONS}, got "
                f"{shortened(kind)}"
            )
        odd = [r for r in (self.r, *self.rank_pattern.values()) if r % 2]
        if kind == "orthogonal" and odd:
            raise ValueError(f"init_lora_weights='orthogonal' needs even ranks, got {odd[0]}")
        if self.lora_bias and (self.use_dora or not isinstance(kind, bool)):
            raise ValueError("lora_bias goes with init_lora_weights=True or False only, and not with use_dora")
        if kind == "mica" and self.use_dora:
            raise ValueError("init_lora_weights='mica' does not go with use_dora")
        self._check_start()

    def _check_start(self):
        """The settings of a start that has its own, and an alpha that its A and B can be divided by."""
        given = self.loftq_config, self.eva_config, self.corda_config, self.lora_ga_config
        if any(given) or self.init_lora_weights in ("eva", *FROM_LAYERS):
            from .starts.config import settle  # most adapters start in other ways

            settle(self)
        elif self.loftq_config is None:
            self.loftq_config = {}
        alphas = [self.lora_alpha, *self.alpha_pattern.values()]
        if changes_base(self.init_lora_weights) and self.init_lora_weights != "olora" and min(alphas) <= 0:
            raise ValueError(f"init_lora_weights={self.init_lora_weights!r} needs lora_alpha > 0, got {min(alphas)}")

    @property
    def special(self) -> str | None:
        """The field that makes another kind of adapter of LoRA, one of `kinds.SPECIAL`; None if it is as usual."""
        own = vars(self)
        for name in SPECIAL:
            if own[name]:
                return name
        return None

    @property
    def scaling(self) -> float:
        """s, the factor of B A where no pattern applies: lora_alpha / r, or lora_alpha / √r with use_rslora."""
        return self.scaling_of(self.r, self.lora_alpha)

    def scaling_of(self, r: int, alpha: float) -> float:
        """s for a rank and an alpha."""
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(r, lora_alpha) of the layer with this dotted name: of the first pattern that matches, or the usual ones."""
        return first_match(self.rank_pattern, name, self.r), first_match(self.alpha_pattern, name, self.lora_alpha)

    @property
    def changes_base(self) -> bool:
        """Does the initialisation take a part out of the base weight?"""
        return changes_base(self.init_lora_weights) or self.kasa_config is not None

    def initial_matrices(self, target: Target) -> list[Array]:
        """A and B of a new adapter at a `Target`."""
        return initial_matrices(self, target)


def check_tokens(given: Any) -> Any:
    """`trainable_token_indices` as lists of Python's integers. ValueError, with the field's name, for anything else."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {name: check_tokens(rows) for name, rows in given.items()}
    rows = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(rows, list | tuple | range | set) or not all(type(i) is int for i in rows):
        raise ValueError(
            "trainable_token_indices must be a list of tokens' numbers, or a dict {module's name: such a list}, got "
            f"{shortened(given)}"
        )
    return sorted(rows) if isinstance(rows, set) else list(rows)
