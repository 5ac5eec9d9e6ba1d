"""What the fields of a file may be, said by their types and checked in one place.

A type is a plain one (`bool`, `str`, `dict`), a `Literal` text, a union with None, a list of one (`list[TokenId]`), or
a number between two bounds, such as those below. A bool is no number, and a number that is not finite is between no
bounds.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

LARGEST = 2**31 - 1
SHOWN = 80  # characters of a wrong value in a message: it may be a whole file


@dataclass(frozen=True)
class Between:
    """The bounds of a number, both included, and what it is called in messages."""

    low: float
    high: float
    called: str


Size = Annotated[int, Between(1, LARGEST, "a positive integer")]
Depth = Annotated[int, Between(1, 1024, "a positive integer")]  # of a model: each block takes time
Count = Annotated[int, Between(0, LARGEST, "an integer of at least 0")]
TokenId = Annotated[int, Between(0, LARGEST, "a token's id, an integer of at least 0")]
OptionalId = Annotated[int, Between(-1, LARGEST, "a token's id")] | None  # -1 is how old files write that there is none
TokenIds = TokenId | list[TokenId] | None
Fraction = Annotated[float, Between(0, 1, "a number from 0 to 1")]
Chance = Annotated[float, Between(0, 1 - 2**-24, "a probability in [0, 1)")]

NAMES = {bool: "true or false", str: "a text", dict: "an object", int: "an integer"}


def check_fields(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """ValueError, with the field's name, for the first of `values` that is not of its type."""
    for name, kind in kinds.items():
        if name in values and not fits(values[name], kind):
            raise ValueError(
                f"{name} must be {called(kind)}, got {short(values[name])}{_too_large(values[name], kind)}"
            )


def _too_large(value: Any, kind: Any) -> str:
    """What to add for a number above its bound."""
    bounds = get_args(kind)[1] if get_origin(kind) is Annotated else None
    return f"; at most {bounds.high}" if bounds and isinstance(value, int) and value > bounds.high else ""


def fits(value: Any, kind: Any) -> bool:
    """Is the value of this type?"""
    if get_origin(kind) is Annotated:
        number, bounds = get_args(kind)
        wanted = (int, float) if number is float else number
        in_bounds = isinstance(value, wanted) and bounds.low <= value <= bounds.high
        return in_bounds and not isinstance(value, bool)
    if get_origin(kind) in (Union, types.UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(one, get_args(kind)[0]) for one in value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def called(kind: Any) -> str:
    """The type in words."""
    if get_origin(kind) is Annotated:
        return get_args(kind)[1].called
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(called(one) for one in get_args(kind) if one is not type(None)))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return f"a list, each {called(get_args(kind)[0])}" if get_origin(kind) is list else NAMES[kind]


def short(value: Any) -> str:
    """A value for a message: one that is wrong may be a whole file, or a number of 5,000 digits."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return f"an integer of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
