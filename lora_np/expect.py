"""Arguments of another kind than a function takes: one sentence that names the argument and says what it should be.

Only what a user gives by hand is looked at, where it comes in; inside the library types are mypy's business.
"""

import math
from collections.abc import Iterable
from os import PathLike
from types import UnionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

A_MODEL = "a model, such as AutoModelForCausalLM.from_pretrained(...) or get_peft_model(...) gives it"
A_TOKENIZER = "a tokenizer, such as AutoTokenizer.from_pretrained(...) gives it, or ByteTokenizer()"


def expect(value: Any, kinds: type | UnionType, name: str, wanted: str) -> None:
    """TypeError unless `value` is of one of these kinds: "NAME should be WANTED, got a str: 'gpt2'".

    name: that of the argument. wanted: what it should be, and how to come by it.
    """
    if not isinstance(value, kinds):
        raise TypeError(wrong(value, name, wanted))


def expect_method(value: Any, method: str, name: str, wanted: str) -> None:
    """TypeError unless `value` has this method. A text has many, and is never meant."""
    if isinstance(value, type | str | bytes) or not callable(getattr(value, method, None)):
        raise TypeError(wrong(value, name, wanted))


def expect_path(value: Any, name: str, wanted: str = "a path") -> "Path":
    """`value` as a Path. TypeError unless it names a file or a folder; ValueError for a null character in it."""
    from pathlib import Path  # the engine does without

    expect(value, str | PathLike, name, wanted)
    if "\0" in (text := str(value)):
        raise ValueError(f"{name} should be {wanted}, and no path has a null character: {text!r:.60}")
    return Path(value)


def expect_list(value: Any, name: str, wanted: str) -> list[Any]:
    """`value` as a list. TypeError unless it is a list or another iterable of things that are no letters or keys."""
    if isinstance(value, type | str | bytes | dict) or not isinstance(value, Iterable):
        raise TypeError(wrong(value, name, wanted))
    return list(value)


def expect_whole(value: Any, name: str, least: int = 1) -> None:
    """TypeError unless `value` is a whole number, ValueError unless it is at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or getattr(value, "ndim", 0):
        raise TypeError(wrong(value, name, "a whole number"))
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def expect_number(value: Any, name: str, positive: bool = False) -> None:
    """TypeError unless `value` is a number, ValueError if it is negative or NaN; `positive`: also if 0 or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(wrong(value, name, "a number"))
    if positive and not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive, got {value}")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def wrong(value: Any, name: str, wanted: str) -> str:
    """The sentence about a value that is not what was wanted."""
    if value is None:
        return f"{name} should be {wanted}, got None"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    what = f"the class {value.__name__}" if isinstance(value, type) else f"{article} {kind}: {value!r:.60}"
    return f"{name} should be {wanted}, got {what}"
