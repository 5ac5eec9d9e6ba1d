"""Calls in which each row of the batch goes through an adapter of its own: `adapter_names=`."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from ..autograd.threads import limit_threads
from .call import calling
from .lora_model import adapters_in
from .names import BASE


def checked_rows(peft_model: Any, adapter_names: Iterable[str], rows: int | None = None) -> list[str]:
    """The names as a list. An error if they cannot be used: for so many `rows`, if that is known already."""
    if isinstance(adapter_names, str):
        raise TypeError(f"adapter_names should list a name for each row, not be one: {adapter_names!r}")
    names = list(adapter_names)
    peft_model._refuse_if_merged("naming adapters row by row")
    if rows is not None and rows != len(names):
        raise ValueError(f"adapter_names has {len(names)} names: it needs one for each of {rows} rows of input_ids")
    for name in set(names) - {BASE}:
        peft_model._check_known(name)
    if BASE in names and any(adapter.initial is not None for adapter in adapters_in(peft_model.base_model)):
        raise ValueError(
            f"{BASE!r} needs the base weights, and a PiSSA or OLoRA adapter (or the like) has changed them"
        )
    if peft_model.base_model.saved:
        raise ValueError("adapter_names does not go with modules_to_save: a batch goes through one copy of them")
    return names


def in_rows(peft_model: Any, names: list[str]) -> AbstractContextManager[Any]:
    """What a call of the model is made in. One thread: the layers look rows up by their place in the whole batch."""
    stack = ExitStack()
    stack.enter_context(calling(peft_model.base_model.owner, rows=tuple(names)))
    stack.enter_context(limit_threads(1))
    return stack


def generating(peft_model: Any, adapter_names: Iterable[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `generate`, and what its calls of the model are made in, if rows have adapters of their own."""
    if adapter_names is None:
        return options
    names = checked_rows(peft_model, adapter_names)

    def row_calls(rows: int, times: int) -> Callable[[], AbstractContextManager[Any]]:
        """The text has each row of the batch so many `times`: for beams, and for several results."""
        repeated = [name for name in checked_rows(peft_model, names, rows) for _ in range(times)]
        return lambda: in_rows(peft_model, repeated)

    return {**options, "row_calls": row_calls}
