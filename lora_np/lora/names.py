"""What adapters may be called."""

from collections.abc import Iterable

from .. import nn

BASE = "__base__"  # in adapter_names: no adapter for this row


def check_new_name(name: str, taken: Iterable[str]) -> None:
    """ValueError unless an adapter can be called so beside those whose names are taken."""
    if name in taken:
        raise ValueError(f"there is an adapter {name!r} already: choose another name, or delete_adapter it first")
    if not name or not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"an adapter's name is made of letters, digits and _, no digit first, and is no method's: not {name!r}"
        )
    if name == BASE:
        raise ValueError(f"{BASE!r} stands for the model without an adapter: choose another name")
