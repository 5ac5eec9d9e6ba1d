"""Settings as text: a dataclass with many fields shows those that were changed."""

import dataclasses
from enum import StrEnum
from typing import Any


def changed_settings(settings: Any) -> str:
    """`Name(field=value, ...)` with the fields that are not as they are by default; it makes an equal one again."""
    shown = []
    for field in dataclasses.fields(settings):
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else field.default  # type: ignore[misc]
        value = getattr(settings, field.name)
        if field.init and field.repr and value != default:
            shown.append(f"{field.name}={(str(value) if isinstance(value, StrEnum) else value)!r}")
    return f"{type(settings).__name__}({', '.join(shown)})"
