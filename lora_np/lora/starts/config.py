"""The settings of the starts in this room, under PEFT's names. Each is a field of `LoraConfig`."""

import dataclasses
from dataclasses import dataclass
from os import PathLike, fspath
from types import NoneType
from typing import Any, ClassVar

from ...refusals import warn
from ..patterns import shortened
from ..sub_configs import SubConfig


class StartConfig(SubConfig):
    """What the settings of these starts have in common: a file's A and B have started long ago. Abstract.

    flags    the fields that are True or False
    choices  {field: its values}
    """

    knows_all = False
    flags: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __post_init__(self) -> None:
        kind = type(self).__name__
        for name in self.flags:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{kind}: {name} must be True or False, got {shortened(getattr(self, name))}")
        for name, values in self.choices.items():
            if getattr(self, name) not in values:
                known = ", ".join(map(repr, values))
                raise ValueError(f"{kind}: {name} must be one of {known}, got {shortened(getattr(self, name))}")

    def _check_number(self, name, least, most=float("inf"), whole=False):
        value = getattr(self, name)
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not least <= value <= most:
            between = f"at least {least}" if most == float("inf") else f"from {least} to {most}"
            what = "a whole number" if whole else "a number"
            raise ValueError(f"{type(self).__name__}: {name} must be {what}, {between}, got {shortened(value)}")


@dataclass
class EvaConfig(StartConfig):
    """The settings of `init_lora_weights="eva"`; see `eva.py`.

    rho                     a layer's rank becomes at most rho · r; 1 leaves all ranks as they are
    tau                     directions are taken as found once a batch turns each by less: their cosine is tau or more
    use_label_mask          leave out positions whose label is label_mask_value, where batches have labels
    label_mask_value        that label
    whiten                  divide each direction by the root of its singular value
    adjust_scaling_factors  change lora_alpha with the rank, so that lora_alpha / r stays
    """

    rho: float = 2.0
    tau: float = 0.99
    use_label_mask: bool = True
    label_mask_value: int = -100
    whiten: bool = False
    adjust_scaling_factors: bool = True

    flags = ("use_label_mask", "whiten", "adjust_scaling_factors")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("rho", 1, 3.4e38)
        self._check_number("tau", 0, 1)
        self._check_number("label_mask_value", -(2**63), whole=True)


@dataclass
class CordaConfig(StartConfig):
    """The settings of `init_lora_weights="corda"`; see `corda.py`.

    cache_file                  a safetensors file that keeps the decompositions; where it is there, nothing is run
    covariance_file             one that keeps the covariances, which do not depend on r
    corda_method                "ipm": A and B have the largest components; "kpm": the smallest
    verbose                     print which layer is being decomposed
    use_float16_for_covariance  leave covariances of a model in float16 in that dtype: half the memory
    prune_temporary_fields      PEFT's: nothing temporary is left here in either case
    """

    cache_file: str | None = None
    covariance_file: str | None = None
    corda_method: str = "ipm"
    verbose: bool = False
    use_float16_for_covariance: bool = False
    prune_temporary_fields: bool = True

    flags = ("verbose", "use_float16_for_covariance", "prune_temporary_fields")
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"corda_method": ("ipm", "kpm")}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cache_file", "covariance_file"):
            path = getattr(self, name)
            if not isinstance(path, (str, PathLike, NoneType)):
                raise ValueError(f"CordaConfig: {name} must be a file's path or None, got {shortened(path)}")
            setattr(self, name, None if path is None else fspath(path))


@dataclass
class LoraGAConfig(StartConfig):
    """The settings of `init_lora_weights="lora_ga"`; see `lora_ga.py`.

    direction     which singular vectors of the gradient go into A and into B: "ArB2r" has the first r in A and the
                  next r in B, "A2rBr" the other way round, "ArBr" takes turns, "random" has the same r of 2r in both
    scale         how large they begin: "stable", "weight_svd", "gd_scale" or "unit"
    stable_gamma  with "stable": B is larger by out^¼ / √stable_gamma
    """

    direction: str = "ArB2r"
    scale: str = "stable"
    stable_gamma: int = 16

    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "direction": ("ArBr", "A2rBr", "ArB2r", "random"),
        "scale": ("stable", "weight_svd", "gd_scale", "unit"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("stable_gamma", 1e-30, 3.4e38)


@dataclass
class LoftQConfig(StartConfig):
    """The settings of `init_lora_weights="loftq"`; see `loftq.py`.

    loftq_bits  4 for NF4, 8 for whole numbers with one scale for each output
    loftq_iter  how often rounding and decomposition take turns
    """

    loftq_bits: int = 4
    loftq_iter: int = 1

    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"loftq_bits": (4, 8)}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("loftq_iter", 1, 1000, whole=True)


FIELDS: dict[str, tuple[str, type[Any]]] = {  # {init_lora_weights: (its field of LoraConfig, the class)}
    "eva": ("eva_config", EvaConfig),
    "corda": ("corda_config", CordaConfig),
    "lora_ga": ("lora_ga_config", LoraGAConfig),
    "loftq": ("loftq_config", LoftQConfig),
}


def settle(config: Any) -> None:
    """Have the fields of a LoraConfig for these starts be what their classes are, and that of its own start be there.

    `loftq_config` becomes a dict, as in PEFT. A warning for settings of a start that is not in use; ValueError for
    anything that is no such settings.
    """
    for start, (name, kind) in FIELDS.items():
        given, used = getattr(config, name), config.init_lora_weights == start
        if not given and not used:
            setattr(config, name, {} if start == "loftq" else None)
            continue
        made = dataclasses.replace(kind.of(name, given or {}))
        setattr(config, name, dataclasses.asdict(made) if start == "loftq" else made)
        if not used:
            warn(f"{name} is for init_lora_weights={start!r}, and does nothing with {config.init_lora_weights!r}")
