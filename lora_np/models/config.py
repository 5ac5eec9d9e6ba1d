"""What the configurations of all architectures do in the same way."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from ..keywords import NamedFields
from ..nn import float_type
from ..storage import write_json
from ..storage.fields import Chance, Count, Depth, Fraction, OptionalId, Size, TokenIds, check_fields
from .labels import LABELS, NUM_LABELS, label_fields, settle_labels

__all__ = ["Chance", "Count", "Depth", "Fraction", "ModelConfig", "OptionalId", "Size", "TokenIds"]


@dataclass
class ModelConfig(NamedFields):
    """A model's shape, under the names of Hugging Face's config.json. Abstract: an architecture adds its fields.

    model_type     what config.json calls the architecture
    architecture   what it calls the model's class
    attribute_map  {other name: field}: names that a field has besides, to read it, to set it, and in files
    The types of the fields say what a file may hold (storage/fields.py); None may stand where it is the default.
    ValueError, with the field's name, for anything else.

    pad_token_id   the token that fills short rows; a classifier reads the last that is none. Its row of the embedding
                   gets no gradient there, as in Transformers, but in GPT-2 and GPT-NeoX
    num_labels     how many numbers a classifier gives for each text: the length of id2label
    id2label, label2id     {number: name} of the classes, and the other way round
    problem_type   which loss it is trained with; see `classification.py`

    Besides, `dtype`, also called torch_dtype, is that of the weights: the one that a file says, or that its model was
    loaded in; None where nobody says it. It is no field: a saved model's file says the dtype that its weights have.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    attribute_map: ClassVar[dict[str, str]] = {}

    _: KW_ONLY
    pad_token_id: OptionalId = None
    num_labels: Size = NUM_LABELS  # type: ignore[assignment]
    id2label: dict | None = None
    label2id: dict | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        check_fields(vars(self), self.kinds())
        settle_labels(self)

    def __getattr__(self, name: str) -> Any:
        """A field by its other name, and what Transformers' configurations tell besides."""
        if name in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[name])
        if name == "architectures":
            return [self.architecture]
        if name in ("dtype", "torch_dtype"):
            said = vars(self).get("weights_dtype")
            return None if said is None else float_type(said)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(type(self).attribute_map.get(name, name), value)

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        """{field: its type}."""
        return _kinds(cls)  # type: ignore[arg-type]  # a class can be hashed, whether or not its objects can

    @property
    def depth(self) -> tuple[str, int]:
        """(the name of the field that says how many blocks there are, its value)."""
        name = next(name for name, kind in self.kinds().items() if kind == Depth)
        return name, getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """The fields of config.json."""
        own = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("num_labels", *LABELS)}
        return {"model_type": self.model_type, "architectures": [self.architecture], **own, **label_fields(self)}

    def to_json_string(self) -> str:
        """The fields of config.json, as its text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """The configuration in a model's directory or file; keywords that are fields take the place of what it says."""
        from .loading.auto import load_config  # which imports this module

        kind = None if cls is ModelConfig else cls
        return load_config(f"{cls.__name__}.from_pretrained", pretrained_model_name_or_path, kind, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write config.json."""
        write_json(Path(save_directory) / "config.json", self.to_dict())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of a config.json; those that say nothing about the computation are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        others = {own: fields[name] for name, own in cls.attribute_map.items() if name in fields}
        made = cls(**{**{name: value for name, value in fields.items() if name in names}, **others})
        made.weights_dtype = fields.get("dtype", fields.get("torch_dtype"))
        return made


@functools.cache
def _kinds(config_class: type) -> dict[str, Any]:
    """{field: its type} of a configuration."""
    hints = get_type_hints(config_class, include_extras=True)
    fields = dataclasses.fields(config_class)
    return {field.name: hints[field.name] | None if field.default is None else hints[field.name] for field in fields}
