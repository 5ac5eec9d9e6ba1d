"""What an adapter is, under PEFT's names and in PEFT's file: the settings that all kinds share."""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from ..expect import expect_path
from ..keywords import NamedFields, Unused, check_unused
from ..storage import read_json, write_json
from .accepted import accept_others, adapter_folder
from .kinds import config_class
from .patterns import BLOCK, check_expression, check_names, shortened
from .types import ABSENT, StrPath

CONFIG_FILE = "adapter_config.json"
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
    trainable_token_indices = ensure_weight_tying = layer_replication = ABSENT  # see `LoraConfig`
    alora_invocation_tokens = target_parameters = special = ABSENT  # likewise
    target_modules = layers_to_transform = layers_pattern = modules_to_save = ABSENT
    bias, fan_in_fan_out = "none", False
    is_prompt_learning = is_adaption_prompt = False  # PEFT's: what there is here is neither
    prefix: ClassVar[str] = ""  # what stands in front of "_only" in `bias`, where it is not the peft_type
    patterns: ClassVar[tuple[str, ...]] = ("rank_pattern", "alpha_pattern")  # fields whose keys are layers
    flags: ClassVar[tuple[str, ...]] = ("fan_in_fan_out",)  # fields that are True or False; None means False
    unsupported: ClassVar[dict[str, Unused]] = {}  # PEFT's fields for things that are not here
    harmless: ClassVar[set[str]] = {
        "auto_mapping",
        "megatron_core",
        "peft_type",
        "peft_version",
    }  # in a file: no matter
    usual_targets: ClassVar[dict[str, list[str]]] = {}  # {model_type: target_modules}, where they are not LoRA's

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
        biases = ("none", "all", f"{self.prefix or self.peft_type.lower()}_only")
        if self.bias not in biases:
            raise ValueError(f"bias must be one of {', '.join(map(repr, biases))}, got {self.bias!r}")
        self.target_modules = check_names("target_modules", self.target_modules)
        self.exclude_modules = check_names("exclude_modules", self.exclude_modules)
        if isinstance(self.target_modules, list) and not self.target_modules and not self.target_parameters:
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

    def settle(self, model: Any) -> None:
        """Put into fields that are None what they mean for this model, as PEFT does, before layers are looked for."""
        if self.usual_targets and self.target_modules is None:
            usual = self.usual_targets.get(model_type_of(model))
            self.target_modules = usual and list(usual)

    def as_stored(self, arrays: Mapping[str, Any]) -> Self:
        """This one, or what a file with these {name: array} holds, where PEFT's files say something else."""
        return self

    @property
    def changes_base(self) -> bool:
        """Does the initialisation take a part out of the base weight?"""
        return False

    def rank_and_alpha(self, name: str) -> tuple[int, float | None]:
        """(r, lora_alpha) of the layer with this dotted name."""
        return self.r, self.lora_alpha

    def in_file_of(self, adapters: Mapping[str, Any]) -> dict[str, Any]:
        """{field: value} that a file with these {layer: Adapter} says in the place of what stands here."""
        return {}

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
        try:
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source}: {error}") from None

    @classmethod
    def from_peft_type(cls, **kwargs: Any) -> Self:
        """From fields, of the kind that peft_type= names, or of this one. Unknown fields as in `from_dict`."""
        kind = config_class(kwargs["peft_type"], "from_peft_type") if "peft_type" in kwargs else cls
        return kind.from_dict(kwargs, "from_peft_type")

    @classmethod
    def from_json_file(cls, path_json_file: StrPath, **kwargs: Any) -> dict[str, Any]:
        """The fields in a file as they stand there. The other keywords are PEFT's, and change nothing."""
        return read_json(expect_path(path_json_file, "path_json_file", "an adapter_config.json"))

    def save_pretrained(self, save_directory: StrPath, **kwargs: Any) -> None:
        """Write adapter_config.json, without fields that say nothing here. The other keywords are PEFT's."""
        others = ("push_to_hub", "create_pr", "commit_message", "repo_id", "private")
        accept_others("save_pretrained", kwargs, others, ("save_directory",))
        unsaid = {name for name in ("auto_mapping", "peft_version") if getattr(self, name) is None}
        fields = {n: value for n, value in self.to_dict().items() if n not in unsaid and n not in self.unsupported}
        write_json(expect_path(save_directory, "save_directory", "a folder") / CONFIG_FILE, fields)

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


def _task_type(given):
    try:
        return TaskType(given)
    except ValueError:
        known = ", ".join(repr(str(task)) for task in TaskType)
        raise ValueError(f"task_type must be one of {known}, got {shortened(given)}") from None


def model_type_of(model: Any) -> str:
    """The model_type in a model's config, "gpt2"; "" if there is none."""
    return getattr(getattr(model, "config", None), "model_type", "")


def check_ranks(*ranks: int, field_name: str = "r") -> None:
    """ValueError, with the field's name, unless each is an integer of at least 1."""
    for r in ranks:
        if not isinstance(r, int) or isinstance(r, bool) or r < 1:
            raise ValueError(f"{field_name} must be an integer of at least 1, got {r!r}")
        if r > LARGEST_RANK:
            raise ValueError(f"{field_name} must be at most {LARGEST_RANK}, got {shortened(r)}")


def check_rank(field_name: str, r: int) -> None:
    """`check_ranks` of one, with the arguments in the order of the checks below."""
    check_ranks(r, field_name=field_name)


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
