"""What an adapter is, under PEFT's names and in PEFT's file: what all kinds share, and the settings of LoRA."""

import dataclasses
import math
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from ..storage import read_json, write_json
from .adapter import Target
from .init import INITS, changes_base, initial_matrices, is_known
from .types import ABSENT, Array, StrPath

CONFIG_FILE = "adapter_config.json"
DATA_DRIVEN = ("eva", "corda", "lora_ga")  # PEFT fills these in by passes over data, through calls of their own
NOTHING: tuple[Any, ...] = (None, False, {}, [])  # values of a field that is not used


class TaskType(StrEnum):
    """What the model is for. Only language modelling is known here."""

    CAUSAL_LM = "CAUSAL_LM"


@dataclass(kw_only=True)
class PeftConfig:
    """The settings that all kinds of adapters have. Abstract: subclasses add `r` and those of their own.

    target_modules       which layers: a list of names ("c_attn" means every layer whose name ends so), one string as a
                         regular expression for the whole dotted name, or "all-linear"; None for the model's usual ones.
                         "c_attn.q", ".k" or ".v" adapts that third of GPT-2's joint projection
    layers_to_transform  only blocks with these numbers (an int or a list)
    layers_pattern       the name in front of the block number ("h", "layers"), if a model has several
    bias                 which biases are trained too: "none", "all", or "lora_only" (those of adapted layers; with
                         another kind's name in front for another kind)
    modules_to_save      modules trained whole and saved with the adapter, such as a new head
    fan_in_fan_out       whether the adapted layers store their weight (in, out), as GPT-2's Conv1D does
    """

    target_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    task_type: TaskType | str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False

    peft_type: ClassVar[str | None] = None
    r = lora_alpha = exclude_modules = ABSENT
    flags: ClassVar[tuple[str, ...]] = ("fan_in_fan_out",)  # fields that are True or False
    refused: ClassVar[tuple[str, ...]] = ()  # PEFT's fields that change what is computed, for things that are not here
    harmless: ClassVar[set[str]] = {"auto_mapping", "megatron_core", "peft_type", "peft_version"}  # they change nothing

    def __post_init__(self):
        for name in self.flags:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._check_layers()
        biases = ("none", "all", f"{self.peft_type.lower()}_only")
        if self.bias not in biases:
            raise ValueError(f"bias must be one of {', '.join(map(repr, biases))}, got {self.bias!r}")
        self.target_modules = check_names("target_modules", self.target_modules)
        if isinstance(self.target_modules, list) and not self.target_modules:
            raise ValueError("target_modules is empty: name at least one module, or 'all-linear'")
        if self.modules_to_save is not None:
            self.modules_to_save = check_names("modules_to_save", list(self.modules_to_save)) or None
        if self.task_type is not None:
            self.task_type = TaskType(self.task_type)

    def _check_layers(self):
        """ValueError for fields about blocks that have wrong types, or that go with a string, which names its own."""
        layers = self.layers_to_transform
        if layers is not None and not all(
            isinstance(i, int) and not isinstance(i, bool) for i in (layers if isinstance(layers, list) else [layers])
        ):
            raise ValueError(f"layers_to_transform must be a block's number or a list of them, got {layers!r}")
        patterns = self.layers_pattern
        patterns = [patterns] if isinstance(patterns, str) else patterns or []
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ValueError(f"layers_pattern must be a name or a list of names, got {self.layers_pattern!r}")
        for pattern in patterns:
            check_names("layers_pattern", pattern)
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says where block numbers stand: it needs layers_to_transform")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("layers_to_transform goes with a list of target_modules; a string can name its own blocks")

    @property
    def changes_base(self) -> bool:
        """Does the initialisation take a part out of the base weight?"""
        return False

    def rank_and_alpha(self, name: str) -> tuple[int, float | None]:
        """(r, lora_alpha) of the layer with this dotted name."""
        return self.r, self.lora_alpha

    def to_dict(self) -> dict[str, Any]:
        """The fields as they stand in adapter_config.json."""
        fields = dataclasses.asdict(self)
        fields["task_type"] = None if self.task_type is None else str(self.task_type)
        return {**fields, "peft_type": self.peft_type}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str = "the adapter's configuration") -> Self:
        """From the fields of an adapter_config.json; `source` names it in messages.

        Unknown fields are warned about and ignored. A field of PEFT's that changes the computation and is not known
        here is a ValueError: ignoring it would give other numbers.
        """
        if fields.get("peft_type", cls.peft_type) != cls.peft_type:
            raise ValueError(f"{source} is of a {fields['peft_type']} adapter, not of {cls.peft_type}")
        for name in cls.refused:
            if fields.get(name) not in NOTHING:
                raise ValueError(f"{source} has {name} = {fields[name]!r}, which is not supported")
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - names - cls.harmless - set(cls.refused))
        unknown = [name for name in unknown if fields[name] not in NOTHING]
        if unknown:
            warnings.warn(f"{source} has fields that are ignored: {', '.join(unknown)}", stacklevel=2)
        try:
            return cls(**{name: fields[name] for name in names & set(fields)})
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source}: {error}") from None

    def save_pretrained(self, directory: StrPath) -> None:
        """Write adapter_config.json; inference_mode is saved as true, as PEFT does."""
        write_json(Path(directory) / CONFIG_FILE, {**self.to_dict(), "inference_mode": True})

    @classmethod
    def from_pretrained(cls, directory: StrPath) -> Self:
        """Read adapter_config.json. Errors: FileNotFoundError, or ValueError with the file's name."""
        path = Path(directory) / CONFIG_FILE
        return cls.from_dict(read_json(path), str(path))


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
                         "olora"; see `init.py`
    use_rslora           scale by lora_alpha / √r instead, so that the update's size does not shrink with r
    use_dora             learn the length of each row of W apart from its direction; see `variants/dora.py`
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    exclude_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    lora_bias: bool = False
    init_lora_weights: bool | str = True
    use_rslora: bool = False
    use_dora: bool = False

    peft_type = "LORA"
    flags = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")
    refused = (
        *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config"),
        *("target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
    )
    harmless = PeftConfig.harmless | {"qalora_group_size"}

    def __post_init__(self):
        self._check_patterns()
        check_ranks(self.r, *self.rank_pattern.values())
        for alpha in (self.lora_alpha, *self.alpha_pattern.values()):
            if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
                raise ValueError(f"lora_alpha must be a number, got {alpha!r}")
            if not abs(alpha) <= sys.float_info.max:
                raise ValueError("lora_alpha must be finite, and no larger than a float can be")
        check_dropout("lora_dropout", self.lora_dropout)
        super().__post_init__()
        self._check_init()
        self.exclude_modules = check_names("exclude_modules", self.exclude_modules)

    def _check_patterns(self):
        """ValueError, with the field's name, for a pattern that is no dict of names: a file may hold anything."""
        for name in ("rank_pattern", "alpha_pattern"):
            value = getattr(self, name) or {}
            if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
                raise ValueError(f"{name} must be a dict from module names to numbers, got {value!r}")
            for key in value:
                check_names(name, key)  # a regular expression
            setattr(self, name, value)

    def _check_init(self):
        kind = self.init_lora_weights
        if kind in DATA_DRIVEN:
            raise ValueError(
                f"init_lora_weights={kind!r} is not supported: that is computed from training data, which a "
                "LoraConfig does not have; 'pissa' and 'olora' use the weights alone"
            )
        if not is_known(kind):
            known = ", ".join(map(repr, INITS))
            raise ValueError(f"init_lora_weights must be one of {known} or 'pissa_niter_N', got {kind!r}")
        odd = [r for r in (self.r, *self.rank_pattern.values()) if r % 2]
        if kind == "orthogonal" and odd:
            raise ValueError(f"init_lora_weights='orthogonal' needs even ranks, got {odd[0]}")
        if self.lora_bias and (self.use_dora or not isinstance(kind, bool)):
            raise ValueError("lora_bias goes with init_lora_weights=True or False only, and not with use_dora")

    @property
    def scaling(self) -> float:
        """s, the factor of B A where no pattern applies: lora_alpha / r, or lora_alpha / √r with use_rslora."""
        return self.scaling_of(self.r, self.lora_alpha)

    def scaling_of(self, r: int, alpha: float) -> float:
        """s for a rank and an alpha."""
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(r, lora_alpha) of the layer with this dotted name: of the first pattern that matches, or the usual ones."""
        return _first_match(self.rank_pattern, name, self.r), _first_match(self.alpha_pattern, name, self.lora_alpha)

    @property
    def changes_base(self) -> bool:
        """Does the initialisation take a part out of the base weight?"""
        return changes_base(self.init_lora_weights)

    def initial_matrices(self, target: Target) -> list[Array]:
        """A and B of a new adapter at a `Target`."""
        return initial_matrices(self.init_lora_weights, target, self.scaling_of(target.r, target.lora_alpha))


def check_ranks(*ranks: int) -> None:
    """ValueError unless each is an integer of at least 1."""
    for r in ranks:
        if not isinstance(r, int) or isinstance(r, bool) or r < 1:
            raise ValueError(f"r must be an integer of at least 1, got {r!r}")


def check_dropout(name: str, p: float) -> None:
    """ValueError, with the field's name, unless p is in [0, 1)."""
    if not 0 <= p < 1:
        raise ValueError(f"{name} must be in [0, 1), got {p!r}")


def check_names(field_name: str, value: Iterable[str] | str | None) -> list[str] | str | None:
    """The value of a field that names modules, checked: a list of names, or one regular expression as a string.

    ValueError for an invalid expression, and for anything in a list that is no module's name.
    """
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{field_name} {value!r} is not a valid regular expression: {error}") from None
        return value
    if value is None:
        return None
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.]+", name):
            raise ValueError(
                f"{field_name} has {name!r} in a list: a list holds module names; "
                "to use a regular expression, give it alone, as a string"
            )
    return list(value)


def _first_match(pattern, name, default):
    """The value of the first key that the dotted name, or the end of it after a dot, matches; as in PEFT."""
    for key, value in pattern.items():
        if re.fullmatch(rf"(.*\.)?({key})", name):
            return value
    return default
