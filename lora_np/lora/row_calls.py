"""Calls in which each row of the batch goes through an adapter of its own: `adapter_names=`."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from weakref import WeakKeyDictionary

from ..autograd.threads import limit_threads
from .call import calling
from .lora_model import adapters_in
from .names import BASE
from .rows import Rows

# {what a caller keeps of a text that is being written, its `past_key_values`: the Rows of the calls so far}
_texts: WeakKeyDictionary[Any, Rows] = WeakKeyDictionary()


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
        raise ValueError(f"{BASE!r} needs the base weights, and a PiSSA or OLoRA adapter has changed them")
    if peft_model.base_model.saved:
        raise ValueError("adapter_names does not go with modules_to_save: a batch goes through one copy of them")
    return names


def in_rows(peft_model: Any, rows: Rows) -> AbstractContextManager[Any]:
    """What a call of the model is made in. One thread: the layers look rows up by their place in the whole batch."""
    stack = ExitStack()
    stack.enter_context(calling(peft_model.base_model.owner, rows=rows))
    stack.enter_context(limit_threads(1))
    return stack


def rows_of(names: list[str], cache: Any = None) -> Rows:
    """The `Rows` of a call. With a `cache`, which one text has for all its calls, the same for all of these."""
    if not hasattr(cache, "__weakref__"):  # None, or what the model will refuse
        return Rows(names)
    found = _texts.get(cache)
    if found is None or found.names != tuple(names):
        found = _texts[cache] = Rows(names, keep=True)
    return found


def generating(peft_model: Any, adapter_names: Iterable[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `generate`, and what its calls of the model are made in, if rows have adapters of their own."""
    if adapter_names is None:
        return options
    names = checked_rows(peft_model, adapter_names)

    def row_calls(rows: int, times: int) -> Callable[[], AbstractContextManager[Any]]:
        """The text has each row of the batch so many `times`: for beams, and for several results."""
        repeated = Rows((name for name in checked_rows(peft_model, names, rows) for _ in range(times)), keep=True)
        return lambda: in_rows(peft_model, repeated)

    return {**options, "row_calls": row_calls}
