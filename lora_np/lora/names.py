"""What adapters may be called, and the names of adapters that a user gives: looked at here, wherever they come in."""

from collections.abc import Iterable
from typing import Any

from .. import nn
from ..expect import expect, wrong
from .errors import UnknownAdapterError

APART = set("./\\")  # what stands between the parts of a parameter's name, and of a path
BASE = "__base__"  # in adapter_names: no adapter for this row
A_NAME, NAMES = "the name of an adapter, a str", "a list of adapters' names"


def check_new_name(name: str, taken: Iterable[str]) -> None:
    """ValueError unless an adapter can be called so beside those whose names are taken; TypeError if it is no str."""
    expect(name, str, "adapter_name", A_NAME)
    if name in taken:
        raise ValueError(f"there is an adapter {name!r} already: choose another name, or delete_adapter it first")
    folder = name == name.strip() and name.isprintable() and not set(name) & APART
    if not name or not folder or hasattr(nn.ModuleDict, name):
        raise ValueError(f"an adapter's name is a folder's too, with no dot or slash, and is no method's: not {name!r}")
    if name == BASE:
        raise ValueError(f"{BASE!r} stands for the model without an adapter: choose another name")


def check_known(name: Any, known: Iterable[str]) -> None:
    """UnknownAdapterError if `name` is none of those of the adapters that there are; TypeError if it is no name."""
    expect(name, str, "adapter_name", A_NAME)
    if name not in known:
        raise UnknownAdapterError(name, known)


def listed_names(given: Any, argument: str, each: str = NAMES) -> list[str]:
    """Several names as a list of str. TypeError, with the argument's name, for one name alone or no list of them.

    each: what the argument should be.
    """
    if isinstance(given, str | bytes | type) or not isinstance(given, Iterable):
        raise TypeError(wrong(given, argument, each))
    names = list(given)
    for i, name in enumerate(names):
        expect(name, str, f"{argument}[{i}]", A_NAME)
    return names
