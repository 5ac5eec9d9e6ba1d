"""LoraConfig: everything that decides what an adapter is, under PEFT's names and in PEFT's file format."""

import dataclasses
import re
import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ..storage import read_json, write_json

CONFIG_FILE = "adapter_config.json"
BIASES = ("none", "all", "lora_only")

# What PEFT's file may say beyond the fields below, with the value that means "not used". Another value changes
# what the adapter computes, so it is refused instead of ignored.
UNUSED = {
    "use_rslora": False,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "exclude_modules": None,
    "modules_to_save": None,
    "layers_to_transform": None,
    "layers_pattern": None,
}
REFUSED = (
    *UNUSED,
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
)
HARMLESS = {"auto_mapping", "megatron_core", "peft_type", "peft_version", "qalora_group_size", *UNUSED}


class TaskType(StrEnum):
    """What the model is for. Only language modelling is known here."""

    CAUSAL_LM = "CAUSAL_LM"


@dataclass
class LoraConfig:
    """The settings of one adapter.

    r                  rank: A is (r, in), B is (out, r)
    lora_alpha         the update is scaled by lora_alpha / r
    lora_dropout       dropout probability on the input of the low-rank branch, in training only
    target_modules     which layers: a list of names ("c_attn" means every layer whose name ends so), one string as a
                       regular expression for the whole dotted name, or "all-linear"; None for the model's usual ones
    bias               which biases are trained too: "none", "all", or "lora_only" (those of adapted layers)
    init_lora_weights  True: A uniform in ±1/√in, B zero. "gaussian": A normal with standard deviation 1/r, B zero.
                       False: B random too, for tests
    fan_in_fan_out     whether the adapted layers store their weight (in, out), as GPT-2's Conv1D does
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: list | str | None = None
    bias: str = "none"
    init_lora_weights: bool | str = True
    fan_in_fan_out: bool = False
    task_type: TaskType | str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    peft_type: str = field(default="LORA", init=False)

    def __post_init__(self):
        if not isinstance(self.r, int) or isinstance(self.r, bool) or self.r < 1:
            raise ValueError(f"r must be an integer of at least 1, got {self.r!r}")
        if not isinstance(self.lora_alpha, (int, float)) or isinstance(self.lora_alpha, bool):
            raise ValueError(f"lora_alpha must be a number, got {self.lora_alpha!r}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), got {self.lora_dropout!r}")
        if self.bias not in BIASES:
            raise ValueError(f"bias must be one of {', '.join(map(repr, BIASES))}, got {self.bias!r}")
        if not isinstance(self.init_lora_weights, bool) and self.init_lora_weights != "gaussian":
            raise ValueError(f"init_lora_weights must be True, False or 'gaussian', got {self.init_lora_weights!r}")
        if self.task_type is not None:
            self.task_type = TaskType(self.task_type)
        self._check_targets()

    def _check_targets(self):
        """A list holds names; a regular expression stands alone, as a string."""
        targets = self.target_modules
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"target_modules {targets!r} is not a valid regular expression: {error}") from None
        elif targets is not None:
            targets = self.target_modules = list(targets)
            if not targets:
                raise ValueError("target_modules is empty: name at least one module, or 'all-linear'")
            for name in targets:
                if not isinstance(name, str) or not re.fullmatch(r"[\w.]+", name):
                    raise ValueError(
                        f"target_modules has {name!r} in a list: a list holds module names; "
                        "to use a regular expression, give it alone, as a string"
                    )

    @property
    def scaling(self):
        """s = lora_alpha / r, the factor of B A."""
        return self.lora_alpha / self.r

    def to_dict(self):
        """The fields as they stand in adapter_config.json, those of PEFT that are not used here included."""
        fields = dataclasses.asdict(self)
        fields["task_type"] = None if self.task_type is None else self.task_type.value
        return {**UNUSED, **fields}

    @classmethod
    def from_dict(cls, fields, source="the adapter's configuration"):
        """From the fields of an adapter_config.json; `source` names it in messages.

        Unknown fields are warned about and ignored. A known field of PEFT that changes the computation and is not
        supported here is a ValueError: ignoring it would give other numbers.
        """
        if fields.get("peft_type", "LORA") != "LORA":
            raise ValueError(f"{source} is of a {fields['peft_type']} adapter, not of LORA")
        for name in REFUSED:
            if fields.get(name) not in (None, False, {}, []):
                raise ValueError(f"{source} has {name} = {fields[name]!r}, which is not supported yet")
        names = {field.name for field in dataclasses.fields(cls) if field.init}
        unknown = [n for n in sorted(set(fields) - names - HARMLESS) if fields[n] not in (None, False, {}, [])]
        if unknown:
            warnings.warn(f"{source} has fields that are ignored: {', '.join(unknown)}", stacklevel=2)
        try:
            return cls(**{name: fields[name] for name in names & set(fields)})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: {error}") from None

    def save_pretrained(self, directory):
        """Write adapter_config.json; inference_mode is saved as true, as PEFT does."""
        write_json(Path(directory) / CONFIG_FILE, {**self.to_dict(), "inference_mode": True})

    @classmethod
    def from_pretrained(cls, directory):
        """Read adapter_config.json. Errors: FileNotFoundError, or ValueError with the file's name."""
        path = Path(directory) / CONFIG_FILE
        return cls.from_dict(read_json(path), str(path))
