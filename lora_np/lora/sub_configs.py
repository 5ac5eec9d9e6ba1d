"""Settings that LoraConfig holds in fields of their own, under PEFT's names: one small dataclass for each.

In a file they are dicts, which LoraConfig takes too. What they do is said where the kind of adapter is, in `variants/`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..keywords import NamedFields
from ..refusals import warn
from ..settings import changed_settings
from .patterns import check_names, shortened
from .peft_config import check_alpha, check_ranks

DIRECTIONS = ("batch_average", "batch_average_once", "random")


class SubConfig(NamedFields):
    """The value of one field of LoraConfig. Abstract.

    knows_all   would a field that is not known here change what an adapter computes? Else it is left out with a warning
    """

    knows_all = True

    @classmethod
    def of(cls, setting: str, given: Any) -> Self | None:
        """What was given for this field of LoraConfig: None, one of these, or a dict of its fields. ValueError else."""
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise ValueError(f"{setting} must be a {cls.__name__}, or a dict of its fields, got {shortened(given)}")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = [str(name) for name in given if name not in fields]
        if unknown and cls.knows_all:
            raise ValueError(f"{setting} has a field {unknown[0]!r}; a {cls.__name__} has {', '.join(fields)}")
        if unknown:
            warn(f"{setting} has fields that are ignored: {', '.join(unknown)}")
        given = {name: value for name, value in given.items() if name in fields}
        made = cls(**{name: value for name, value in given.items() if fields[name].init})
        for name in given:
            if not fields[name].init:
                setattr(made, name, check_names(f"{setting}: {name}", given[name]))
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
class ArrowConfig(SubConfig):
    """How adapters are chosen for each token; see `variants/arrow.py`.

    top_k               how many
    router_temperature  the softmax's: the higher, the more equal their weights
    use_gks             are the general adapters to be subtracted first?
    task_adapter_names, gks_adapter_names   of those among which it chooses, and of the general ones, as
                        `create_arrow_model` has named them
    rng_seed            PEFT's, for an iteration that is not needed here
    """

    top_k: int = 3
    router_temperature: float = 1.0
    use_gks: bool = False
    task_adapter_names: list[str] | None = field(default=None, init=False)
    gks_adapter_names: list[str] | None = field(default=None, init=False)
    rng_seed: int | None = None

    __repr__ = changed_settings

    def __post_init__(self):
        check_ranks(self.top_k, field_name="top_k")
        check_positive("router_temperature", self.router_temperature)
        check_flag("use_gks", self.use_gks)
        if self.rng_seed is not None and type(self.rng_seed) is not int:
            raise ValueError(f"rng_seed must be an integer or None, got {shortened(self.rng_seed)}")

    def rename(self, old: str, new: str) -> None:
        """An adapter has a new name."""
        for name in ("task_adapter_names", "gks_adapter_names"):
            known = getattr(self, name)
            if known and old in known:
                setattr(self, name, [new if adapter == old else adapter for adapter in known])


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


@dataclass
class MontecloraConfig(SubConfig):
    """How A is drawn, and how much its terms weigh in the loss; see `variants/monteclora.py`.

    num_samples      n, how many matrices are drawn and mixed
    use_entropy      is Σ w² added to the loss, which holds the weights of the mixture near equal?
    dirichlet_prior  a, towards which their concentrations are held
    sample_scaler    c, the factor of what is drawn
    kl_loss_weight   κ, of the divergences from the priors
    buffer_size      PEFT's, of draws that are made ahead; it changes nothing here
    """

    num_samples: int = 8
    use_entropy: bool = False
    dirichlet_prior: float = 0.1
    sample_scaler: float = 1e-4
    kl_loss_weight: float = 1e-5
    buffer_size: int = 150

    __repr__ = changed_settings

    def __post_init__(self):
        check_ranks(self.num_samples, field_name="num_samples")
        check_ranks(self.buffer_size, field_name="buffer_size")
        check_flag("use_entropy", self.use_entropy)
        check_positive("dirichlet_prior", self.dirichlet_prior)
        check_positive("sample_scaler", self.sample_scaler, zero=True)
        check_positive("kl_loss_weight", self.kl_loss_weight, zero=True)


@dataclass
class LoraRuntimeConfig(SubConfig):
    """PEFT's: how to run, not what to compute.

    ephemeral_gpu_offload   PEFT's, of weights that wait on the host; it changes nothing here
    """

    ephemeral_gpu_offload: bool = False

    __repr__ = changed_settings

    def __post_init__(self):
        check_flag("ephemeral_gpu_offload", self.ephemeral_gpu_offload)


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
    "arrow_config": ArrowConfig,
    "kasa_config": KasaConfig,
    "monteclora_config": MontecloraConfig,
    "use_bdlora": BdLoraConfig,
    "velora_config": VeloraConfig,
}
