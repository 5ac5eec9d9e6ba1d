"""What the configurations of all architectures do in the same way."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self


@dataclass
class ModelConfig:
    """A model's shape, under the names of Hugging Face's config.json. Abstract: an architecture adds its fields.

    model_type     what config.json calls the architecture
    architecture   what it calls the model's class
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields of config.json."""
        return {"model_type": self.model_type, "architectures": [self.architecture], **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of a config.json; those that say nothing about the computation are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in names})

    def check_sizes(self, *names: str) -> None:
        """ValueError unless each of these fields is a positive integer."""
        for name in names:
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)!r}")
