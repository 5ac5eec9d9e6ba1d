"""Settings as text: a dataclass with many fields shows those that were changed."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any


def changed_settings(settings: Any, defaults: Mapping[str, Any] = MappingProxyType({})) -> str:
    """`Name(field=value, ...)` with the fields that are not as they are by default; it makes an equal one again.

    defaults: {field: value} of those whose default follows from other fields.
    """
    shown = []
    for field in dataclasses.fields(settings):
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else field.default  # type: ignore[misc]
        default = defaults.get(field.name, default)
        value = getattr(settings, field.name)
        if field.init and field.repr and value != default:
            shown.append(f"{field.name}={(str(value) if isinstance(value, StrEnum) else value)!r}")
    return f"{type(settings).__name__}({', '.join(shown)})"
