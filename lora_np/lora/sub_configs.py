"""Settings that LoraConfig holds in fields of their own, under PEFT's names: one small dataclass for each.

In a file they are dicts, which LoraConfig takes too. What they do is said where the kind of adapter is, in `variants/`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..keywords import NamedFields
from ..settings import changed_settings
from .patterns import check_names, shortened
from .peft_config import check_alpha, check_ranks

DIRECTIONS = ("batch_average", "batch_average_once", "random")


class SubConfig(NamedFields):
    """The value of one field of LoraConfig. Abstract."""

    @classmethod
    def of(cls, field: str, given: Any) -> Self | None:
        """What was given for this field of LoraConfig: None, one of these, or a dict of its fields. ValueError else."""
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"{field} must be a {cls.__name__}, or a dict of its fields, got {shortened(given)}")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := [name for name in given if name not in fields]:
            raise ValueError(f"{field} has a field {unknown[0]!r}; a {cls.__name__} has {', '.join(fields)}")
        made = cls(**{name: value for name, value in given.items() if fields[name].init})
        for name in given:
            if not fields[name].init:
                setattr(made, name, given[name])
        return made


@dataclass
class BdLoraConfig(SubConfig):
    """Which matrices are block-diagonal; see `variants/bdlora.py`.

    target_modules_bd_a, target_modules_bd_b   parts of names of layers whose A, or whose B, is
    nblocks       how many blocks it has
    match_strict  must each adapted layer be one of these?
    """

    target_modules_bd_a: list[str] | None = None
    target_modules_bd_b: list[str] | None = None
    nblocks: int = 1
    match_strict: bool = True

    __repr__ = changed_settings

    def __post_init__(self):
        for name in ("target_modules_bd_a", "target_modules_bd_b"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a list of names, got {getattr(self, name)!r}")
            setattr(self, name, check_names(name, getattr(self, name)))
        check_ranks(self.nblocks, field_name="nblocks")
        check_flag("match_strict", self.match_strict)
        both = set(self.target_modules_bd_a or ()) & set(self.target_modules_bd_b or ())
        if both:
            raise ValueError(f"target_modules_bd_a and target_modules_bd_b both have {', '.join(sorted(both))}")


@dataclass
class KasaConfig(SubConfig):
    """How much the terms weigh that KaSA adds to the loss; see `variants/kasa.py`.

    beta    of the squares of the singular values
    gamma   of how far A and B are from orthogonal
    """

    beta: float = 1e-4
    gamma: float = 1e-3

    __repr__ = changed_settings

    def __post_init__(self):
        check_positive("beta", self.beta, zero=True)
        check_positive("gamma", self.gamma, zero=True)


@dataclass
class VeloraConfig(SubConfig):
    """How activations are made smaller; see `variants/velora.py`.

    num_groups  in how many parts each input is cut, of each of which one number is kept
    scale       the factor of what is made of them again
    init_type   the direction: "batch_average" of each step's parts, "batch_average_once" of the first step's, "random"
    """

    num_groups: int = 64
    scale: float = 1.0
    init_type: str = "batch_average"

    __repr__ = changed_settings

    def __post_init__(self):
        check_ranks(self.num_groups, field_name="num_groups")
        check_positive("scale", self.scale)
        if self.init_type not in DIRECTIONS:
            known = ", ".join(map(repr, DIRECTIONS))
            raise ValueError(f"init_type must be one of {known}, got {shortened(self.init_type)}")


def check_flag(name: str, given: Any) -> None:
    """ValueError, with the field's name, unless this is True or False."""
    if not isinstance(given, bool):
        raise ValueError(f"{name} must be True or False, got {shortened(given)}")


def check_positive(name: str, given: Any, zero: bool = False) -> None:
    """ValueError, with the field's name, unless this is a finite number above 0; with `zero`, 0 will do."""
    check_alpha(name, given)
    if given < 0 or (given == 0 and not zero):
        raise ValueError(f"{name} must {'not be negative' if zero else 'be above 0'}, got {given!r}")


SUB_CONFIGS: dict[str, type[SubConfig]] = {  # {field of LoraConfig: what it holds}
    "kasa_config": KasaConfig,
    "use_bdlora": BdLoraConfig,
    "velora_config": VeloraConfig,
}
