"""Calls in which each row of the batch goes through an adapter of its own, `adapter_names=`, or from some token on."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..autograd import changes
from ..autograd.threads import limit_threads
from .call import calling, this_call
from .invocations import Counts, acting_on, counts_of, invocations, until
from .lora_model import adapters_in
from .names import BASE, NAMES, listed_names
from .rows import Rows

# {what a caller keeps of a text that is being written, its `past_key_values`: the Rows of the calls so far}
_texts: WeakKeyDictionary[Any, Rows] = WeakKeyDictionary()


def checked_rows(peft_model: Any, adapter_names: Iterable[str], rows: int | None = None) -> list[str]:
    """The names as a list. An error if they cannot be used: for so many `rows`, if that is known already."""
    names = listed_names(adapter_names, "adapter_names", f"{NAMES}, a name for each row")
    peft_model._refuse_if_merged("naming adapters row by row")
    if rows is not None and rows != len(names):
        raise ValueError(f"adapter_names has {len(names)} names: it needs one for each of {rows} rows of input_ids")
    for name in set(names) - {BASE}:
        peft_model._check_known(name)
    if BASE in names and any(adapter.initial is not None for adapter in adapters_in(peft_model.base_model)):
        raise ValueError(f"{BASE!r} needs the base weights, and an adapter's initialisation has changed them")
    if peft_model.base_model.saved:
        raise ValueError("adapter_names does not go with modules_to_save: a batch goes through one copy of them")
    return names


def in_rows(peft_model: Any, rows: Rows | None, counts: Counts) -> AbstractContextManager[Any]:
    """What a call of the model is made in. One thread: the layers look rows up by their place in the whole batch.

    rows: an adapter for each row, or None. counts: on which tokens those act that begin at some token.
    """
    stack = ExitStack()
    if rows is not None:
        stack.enter_context(calling(peft_model.base_model.owner, rows=rows))
    stack.enter_context(acting_on(counts))
    stack.enter_context(limit_threads(1))
    return stack


def rows_of(owner: Any, names: list[str] | None, cache: Any = None) -> Rows | None:
    """The `Rows` of a call of the model that `owner` stands for.

    With a `cache`, which one text has for all its calls, the same for all of these. Without one, those of the call
    before, if it had the same names and nothing has changed since.
    """
    if names is None:
        return None
    if hasattr(cache, "__weakref__"):  # not None, nor what the model will refuse
        return _kept(_texts, cache, names, partial(rows_of_text, owner))
    return _kept(changes.memo(), owner, names, Rows)


def rows_of_text(owner: Any, names: Iterable[str]) -> Rows:
    """`Rows` for all calls that write one text. They know what those of the calls without one know of addresses."""
    names = tuple(names)
    return Rows(names, keep=True, others=_kept(changes.memo(), owner, names, Rows))


def _kept(kept, whose, names, make):
    """The Rows with these names that are kept for someone, made if there are none or others."""
    found = kept.get(whose)
    if found is None or found.names != tuple(names):
        found = kept[whose] = make(names)
    return found


def forward_in_rows(peft_model: Any, adapter_names: Any, alora_offsets: Any, args: Any, kwargs: Any) -> Any:
    """A call of the model in which rows have adapters of their own, or adapters begin at some token."""
    ids, tuner = kwargs.get("input_ids", args[0] if args else None), peft_model.base_model
    names = None if adapter_names is None else checked_rows(peft_model, adapter_names, 0 if ids is None else len(ids))
    cache = kwargs.get("past_key_values")
    invoking = invocations(peft_model.peft_config, names or peft_model.active_adapters)
    counts: Counts = {}
    if invoking and ids is not None and not this_call(tuner.owner).disabled:
        if kwargs.get("seq_idx") is not None:
            raise ValueError(
                "an aLoRA adapter acts from its tokens on to the end of the row, and there may be another text: "
                "give each text a row of its own, without seq_idx (packing=False)"
            )
        counts = counts_of(ids, invoking, cache, alora_offsets)
    with in_rows(peft_model, rows_of(tuner.owner, names, cache), counts):
        return tuner(*args, **kwargs)


class TextCalls:
    """What each call of the model is made in that writes one text: `with calls():`.

    rows     an adapter for each row, or None
    starts   {invocation tokens: where each row has them}, as for `until`
    """

    def __init__(self, peft_model: Any, text: Any, rows: Rows | None, starts: Counts) -> None:
        self.peft_model, self.text, self.rows, self.starts = peft_model, text, rows, starts

    def __call__(self) -> AbstractContextManager[Any]:
        return in_rows(self.peft_model, self.rows, until(self.text.length, self.starts))

    @property
    def recordable(self) -> bool:
        """May a step on a GPU be recorded? It must be told nothing that changes from one to the next."""
        return self.rows is not None and self.rows.addressed and not self.starts


def generating(peft_model: Any, adapter_names: Iterable[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `generate`, and what its calls of the model are made in, if rows have adapters of their own, or
    adapters begin at some token."""
    names = None if adapter_names is None else checked_rows(peft_model, adapter_names)
    invoking = invocations(peft_model.peft_config, names or peft_model.active_adapters)
    offsets = options.pop("alora_offsets", None)
    if names is None and not invoking:
        return options

    def row_calls(text: Any, times: int) -> Callable[[], AbstractContextManager[Any]]:
        """The text has each row of the batch so many `times`: for beams, and for several results."""
        batch, length = text.ids.shape
        own = None if names is None else np.repeat(checked_rows(peft_model, names, batch), times).tolist()
        rows = None if own is None else rows_of_text(peft_model.base_model.owner, own)
        counts = counts_of(text.ids, invoking, None, offsets)
        starts = {tokens: np.where(found, length - found, -1).repeat(times) for tokens, found in counts.items()}
        return TextCalls(peft_model, text, rows, starts)

    return {**options, "row_calls": row_calls}
