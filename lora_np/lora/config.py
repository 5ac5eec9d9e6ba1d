"""What an adapter is, under PEFT's names and in PEFT's file: what all kinds share, and the settings of LoRA."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from ..keywords import NamedFields, Unused, check_unused
from ..settings import changed_settings
from ..storage import read_json, write_json
from .accepted import accept_others, adapter_folder
from .adapter import Target
from .init import INITS, MOST_ITERATIONS, changes_base, initial_matrices, is_known
from .kinds import config_class
from .patterns import BLOCK, check_expression, check_names, check_patterns, first_match, shortened
from .types import ABSENT, Array, StrPath

CONFIG_FILE = "adapter_config.json"
DATA_DRIVEN = ("eva", "corda", "lora_ga")  # PEFT fills these in by passes over data, through calls of their own
LARGEST = 3.4e38  # what a float32 can hold
LARGEST_RANK = 2**31 - 1  # more is no array's size
NOTHING: tuple[Any, ...] = (None, False, {}, [])  # values of a field that is not used


class TaskType(StrEnum):
    """What the model is for, in PEFT's words. The models here are for the first two; a file may say another."""

    CAUSAL_LM = "CAUSAL_LM"
    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


class PeftType(StrEnum):
    """The kinds of adapters that are here, in PEFT's words."""

    LORA = "LORA"
    ADALORA = "ADALORA"
    DELORA = "DELORA"
    FOURIERFT = "FOURIERFT"
    HIRA = "HIRA"
    HRA = "HRA"
    IA3 = "IA3"
    LOHA = "LOHA"
    LOKR = "LOKR"
    MISS = "MISS"
    OFT = "OFT"
    RANDLORA = "RANDLORA"
    SHIRA = "SHIRA"
    TINYLORA = "TINYLORA"
    VBLORA = "VBLORA"
    VERA = "VERA"


@dataclass
class PeftConfig(NamedFields):
    """The settings that all kinds of adapters have, in PEFT's order. Abstract: subclasses add `r` and their own.

    They also have those of these that apply, as fields of their own (PEFT's order is so):

    target_modules       which layers: a list of names ("c_attn" means every layer whose name ends so), one string as a
                         regular expression for the whole dotted name, or "all-linear"; None for the model's usual ones.
                         "c_attn.q", ".k" or ".v" adapts that part of GPT-2's joint projection, "qkv_proj.q" or
                         "gate_up_proj.up" of Phi-3's
    layers_to_transform  only blocks with these numbers (an int or a list)
    layers_pattern       the name in front of the block number ("h", "layers"), if a model has several
    bias                 which biases are trained too: "none", "all", or "lora_only" (those of adapted layers; with
                         another kind's name in front for another kind)
    modules_to_save      modules trained whole and saved with the adapter, such as a new head: all whose names end so,
                         with or without a dot ("norm" is also "input_layernorm"); they get no adapter
    fan_in_fan_out       whether the adapted layers store their weight (in, out), as GPT-2's Conv1D does
    """

    task_type: TaskType | str | None = None
    peft_type: PeftType | str | None = None
    auto_mapping: dict[str, Any] | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False

    r = lora_alpha = exclude_modules = ABSENT
    trainable_token_indices = ensure_weight_tying = ABSENT  # see `LoraConfig`
    target_modules = layers_to_transform = layers_pattern = modules_to_save = ABSENT
    bias, fan_in_fan_out = "none", False
    is_prompt_learning = is_adaption_prompt = False  # PEFT's: what there is here is neither
    flags: ClassVar[tuple[str, ...]] = ("fan_in_fan_out",)  # fields that are True or False; None means False
    unsupported: ClassVar[dict[str, Unused]] = {}  # PEFT's fields for things that are not here
    harmless: ClassVar[set[str]] = {
        "auto_mapping",
        "megatron_core",
        "peft_type",
        "peft_version",
    }  # in a file: no matter
    in_files: ClassVar[dict[str, dict[Any, Any]]] = {}  # {field: {value in a file: what it means when read}}

    def __post_init__(self):
        own = type(self).peft_type
        if self.peft_type not in (None, own) and own is not None:
            raise ValueError(f"a {type(self).__name__} is of {own} adapters, got peft_type={self.peft_type!r}")
        if self.task_type is not None:
            self.task_type = _task_type(self.task_type)
        if own is None:  # no kind's: what PEFT's users make to hold a task or a name
            return
        self.peft_type = own
        given = {name: getattr(self, name) for name in self.unsupported}
        check_unused(type(self).__name__, given, self.unsupported)
        for name in self.flags:
            if getattr(self, name) is None:
                setattr(self, name, False)
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        self._check_layers()
        biases = ("none", "all", f"{self.peft_type.lower()}_only")
        if self.bias not in biases:
            raise ValueError(f"bias must be one of {', '.join(map(repr, biases))}, got {self.bias!r}")
        self.target_modules = check_names("target_modules", self.target_modules)
        if isinstance(self.target_modules, list) and not self.target_modules:
            raise ValueError("target_modules is empty: name at least one module, or 'all-linear'")
        if isinstance(self.modules_to_save, str):
            raise ValueError(f"modules_to_save must be a list of names, got {self.modules_to_save!r}")
        if self.modules_to_save is not None:
            self.modules_to_save = check_names("modules_to_save", list(self.modules_to_save)) or None

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
            check_expression("layers_pattern", pattern, BLOCK)
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
        """The fields by their names, as in PEFT."""
        fields = {**dataclasses.asdict(self), "peft_type": self.peft_type and str(self.peft_type)}
        fields.pop("runtime_config", None)  # it says how to run, not what
        return {**fields, "task_type": self.task_type and str(self.task_type)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str = "the adapter's configuration") -> Self:
        """From the fields of an adapter_config.json; `source` names it in messages.

        Unknown fields are warned about and ignored. A field of PEFT's that changes the computation and is not known
        here is a ValueError: ignoring it would give other numbers.
        """
        if cls.peft_type is None:
            return config_class(fields.get("peft_type", PeftType.LORA), source).from_dict(fields, source)
        if fields.get("peft_type", cls.peft_type) != cls.peft_type:
            raise ValueError(f"{source} is of a {fields['peft_type']} adapter, not of {cls.peft_type}")
        names = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in fields.items() if name not in cls.harmless}
        unknown = sorted(name for name in given if name not in names and given[name] not in NOTHING)
        if unknown:
            warnings.warn(f"{source} has fields that are ignored: {', '.join(unknown)}", stacklevel=2)
        values = {name: value for name, value in given.items() if name in names}
        for name, (why, _) in cls.unsupported.items():
            if why is not None and values.get(name) not in NOTHING:
                raise ValueError(f"{source} has {name} = {fields[name]!r}, which is not supported: {why}")
        values = {name: value for name, value in values.items() if name not in cls.unsupported}
        for name, meanings in cls.in_files.items():
            if isinstance(values.get(name), str):
                values[name] = meanings.get(values[name].lower(), values[name])
        try:
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source}: {error}") from None

    def save_pretrained(self, save_directory: StrPath, **kwargs: Any) -> None:
        """Write adapter_config.json, without fields that say nothing here. The other keywords are PEFT's."""
        others = ("push_to_hub", "create_pr", "commit_message", "repo_id", "private")
        accept_others("save_pretrained", kwargs, others, ("save_directory",))
        unsaid = {name for name in ("auto_mapping", "peft_version") if getattr(self, name) is None}
        fields = {n: value for n, value in self.to_dict().items() if n not in unsaid and n not in self.unsupported}
        write_json(Path(save_directory) / CONFIG_FILE, fields)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: StrPath, subfolder: str | None = None, **kwargs: Any
    ) -> Self:
        """Read adapter_config.json, of whatever kind it is. Errors: FileNotFoundError, or ValueError with its name.

        subfolder: the folder in that folder. revision=, cache_dir=, token=, ...: for a name on the Hugging Face hub.
        """
        options = {**kwargs, "subfolder": subfolder}
        folder = adapter_folder("from_pretrained", pretrained_model_name_or_path, options)
        return cls.from_dict(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))


DATA = "it is computed from training data, which a LoraConfig does not have; 'pissa' and 'olora' use the weights alone"
NOT_IN_LORA = {  # PEFT's fields of LoraConfig for things that are not here: why, and the values that mean nothing
    "megatron_config": Unused("Megatron's parallel layers are not here"),
    "megatron_core": Unused(),
    "loftq_config": Unused("LoftQ is not here; nn.quantize_model(model) quantises the base model", ({},)),
    "eva_config": Unused(DATA),
    "corda_config": Unused(DATA),
    "lora_ga_config": Unused(DATA),
    "velora_config": Unused("VeLoRA's smaller activations are not here; gradient_checkpointing_enable() saves memory"),
    "alora_invocation_tokens": Unused("aLoRA, which begins at some token, is not here", ([],)),
    "use_qalora": Unused("QALoRA is not here; nn.quantize_model(model) quantises the base model"),
    "qalora_group_size": Unused(),
    "monteclora_config": Unused("MonteCLoRA is not here"),
    "layer_replication": Unused("each block is there once", ([],)),
    "runtime_config": Unused(),
    "target_parameters": Unused("adapters are beside whole layers; name those in target_modules", ([],)),
    "use_bdlora": Unused("BD-LoRA is not here"),
    "arrow_config": Unused("Arrow's routing among adapters is not here; adapter_names= names one for each row"),
    "kasa_config": Unused("KaSA is not here"),
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
                         "olora"; see `init.py`. In a file also "eva" and "mica": read as True, as A and B are there
    use_rslora           scale by lora_alpha / √r instead, so that the update's size does not shrink with r
    use_dora             learn the length of each row of W apart from its direction; see `variants/dora.py`
    trainable_token_indices   tokens whose rows of the embedding are trained too: a list, or {module's name: list}; a
                         tied head follows. See `variants/tokens.py`
    ensure_weight_tying  a head that is tied to the embedding is adapted, or trained whole, as one with it, if
                         target_modules or modules_to_save name "embed_tokens" or "lm_head"; see `variants/tied.py`
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
    flags = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying")
    unsupported = NOT_IN_LORA
    # How A and B began, or how PEFT trains them: what they compute is the same.
    harmless = PeftConfig.harmless | {"qalora_group_size", "eva_config", "loftq_config", "velora_config"}
    harmless |= {"runtime_config"}
    # ("mica" has B frozen in PEFT; trained on here, it is trained too.)
    in_files: ClassVar[dict[str, dict[Any, Any]]] = {"init_lora_weights": {"eva": True, "mica": True}}

    def __post_init__(self):
        for name in ("rank_pattern", "alpha_pattern"):
            if getattr(self, name):
                check_patterns(name, getattr(self, name))
            else:
                setattr(self, name, {})
        check_ranks(self.r)
        for key, r in self.rank_pattern.items():
            check_ranks(r, field_name=f"rank_pattern[{key!r}]: r")
        check_alpha("lora_alpha", self.lora_alpha)
        for key, alpha in self.alpha_pattern.items():
            check_alpha(f"alpha_pattern[{key!r}]: lora_alpha", alpha)
        check_dropout("lora_dropout", self.lora_dropout)
        super().__post_init__()
        self._check_init()
        self.exclude_modules = check_names("exclude_modules", self.exclude_modules)
        self.trainable_token_indices = check_tokens(self.trainable_token_indices)

    def _check_init(self):
        if isinstance(self.init_lora_weights, str):
            self.init_lora_weights = self.init_lora_weights.lower()  # PEFT takes "OLoRA" too
        if self.init_lora_weights is None:  # in PEFT, as False
            self.init_lora_weights = False
        kind = self.init_lora_weights
        if kind in DATA_DRIVEN:
            raise ValueError(
                f"init_lora_weights={kind!r} is not supported: that is computed from training data, which a "
                "LoraConfig does not have; 'pissa' and 'olora' use the weights alone. A file with it can be read once "
                "PEFT has saved it for the unchanged base model (path_initial_model_for_weight_conversion)"
            )
        if not is_known(kind):
            known = ", ".join(map(repr, INITS))
            raise ValueError(
                f"init_lora_weights must be one of {known} or 'pissa_niter_N', N up to {MOST_ITERATIONS}, got "
                f"{shortened(kind)}"
            )
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
        return first_match(self.rank_pattern, name, self.r), first_match(self.alpha_pattern, name, self.lora_alpha)

    @property
    def changes_base(self) -> bool:
        """Does the initialisation take a part out of the base weight?"""
        return changes_base(self.init_lora_weights)

    def initial_matrices(self, target: Target) -> list[Array]:
        """A and B of a new adapter at a `Target`."""
        return initial_matrices(self.init_lora_weights, target, self.scaling_of(target.r, target.lora_alpha))


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


def _task_type(given):
    try:
        return TaskType(given)
    except ValueError:
        known = ", ".join(repr(str(task)) for task in TaskType)
        raise ValueError(f"task_type must be one of {known}, got {shortened(given)}") from None


def check_ranks(*ranks: int, field_name: str = "r") -> None:
    """ValueError, with the field's name, unless each is an integer of at least 1."""
    for r in ranks:
        if not isinstance(r, int) or isinstance(r, bool) or r < 1:
            raise ValueError(f"{field_name} must be an integer of at least 1, got {r!r}")
        if r > LARGEST_RANK:
            raise ValueError(f"{field_name} must be at most {LARGEST_RANK}, got {shortened(r)}")


def check_alpha(field_name: str, alpha: float) -> None:
    """ValueError, with the field's name, unless this is a number that a float32 can hold."""
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise ValueError(f"{field_name} must be a number, got {shortened(alpha)}")
    if not abs(alpha) <= LARGEST:
        raise ValueError(f"{field_name} must be finite, and no larger than a float32 can be, got {shortened(alpha)}")


def check_dropout(name: str, p: float) -> None:
    """ValueError, with the field's name, unless p is in [0, 1)."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p < 1:
        raise ValueError(f"{name} must be in [0, 1), got {shortened(p)}")
