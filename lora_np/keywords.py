"""Keywords of PEFT's and Transformers' functions: those that mean nothing here, and misspelt ones.

A keyword that changes nothing here is accepted with the values that change nothing there either; with another value it
is a ValueError that says why. One that no such function has is a TypeError that names the nearest.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

P, R = ParamSpec("P"), TypeVar("R")


class Unused(NamedTuple):
    """A keyword that does nothing here.

    why      what is said of a value that would do something; None where no value would
    neutral  the values, besides None, that do nothing
    """

    why: str | None = None
    neutral: tuple[Any, ...] = (False,)


def check_unused(call: str, given: Mapping[str, Any], unused: Mapping[str, Unused], known: Iterable[str] = ()) -> None:
    """Look at keywords that a function was `given` and does not use. `known`: the names of those that it does.

    call: the function as a user writes it, "PeftModel.from_pretrained". TypeError, with the nearest name, for one that
    is not in the table `unused`; ValueError for a value that would do something.
    """
    for name, value in given.items():
        if name not in unused:
            raise TypeError(unknown_keyword(call, name, [*known, *unused]))
        why, neutral = unused[name]
        if why is not None and value is not None and not any(_same(value, other) for other in neutral):
            raise ValueError(f"{call}: {name}={value!r:.80} is not supported: {why}")


def _same(value, other):
    return value is other or (type(value) is type(other) and value == other)


def unknown_keyword(call: str, name: str, known: Iterable[str]) -> str:
    """The sentence about a keyword that a function does not have."""
    names = [other for other in known if not other.startswith("_")]
    close = difflib.get_close_matches(name, names, n=1) or [other for other in names if name in other or other in name]
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
    return f"{call} has no option {name!r}; {hint}"


def near_misses(function: Callable[P, R]) -> Callable[P, R]:
    """The function, for which an unknown keyword is a TypeError that names the nearest one that it has."""
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(unknown_keyword(function.__qualname__, name, known))
        return function(*args, **kwargs)

    return checked


class NamedFields:
    """A base of dataclasses: a keyword that is no field is a TypeError that names the nearest field. Abstract."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """The object, its fields not set yet."""
        author = next(kind for kind in cls.__mro__ if "__init__" in vars(kind))  # a subclass may have its own, or none
        taken = inspect.signature(author.__init__).parameters if "__dataclass_fields__" in vars(author) else kwargs
        names = [name for name in taken if name != "self"]
        for name in kwargs:
            if name not in names:
                raise TypeError(unknown_keyword(cls.__name__, name, names))
        return super().__new__(cls)
