"""Arguments of another kind than a function takes: one sentence that names the argument and says what it should be.

Only what a user gives by hand is looked at, where it comes in; inside the library types are mypy's business.
"""

from types import UnionType
from typing import Any


def expect(value: Any, kinds: type | UnionType, name: str, wanted: str) -> None:
    """TypeError unless `value` is of one of these kinds: "NAME should be WANTED, got a str: 'gpt2'".

    name: that of the argument, with its function's. wanted: what it should be, and how to come by it.
    """
    if not isinstance(value, kinds):
        raise TypeError(wrong(value, name, wanted))


def expect_method(value: Any, method: str, name: str, wanted: str) -> None:
    """TypeError unless `value` can be asked by this method."""
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        raise TypeError(wrong(value, name, wanted))


def expect_whole(value: Any, name: str, least: int = 1) -> None:
    """TypeError unless `value` is a whole number, ValueError unless it is at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or getattr(value, "ndim", 0):
        raise TypeError(wrong(value, name, "a whole number"))
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def wrong(value: Any, name: str, wanted: str) -> str:
    """The sentence about a value that is not what was wanted."""
    if value is None:
        return f"{name} should be {wanted}, got None"
    what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}: {value!r:.60}"
    return f"{name} should be {wanted}, got {what}"
