"""Calls in which each row of the batch goes through an adapter of its own, `adapter_names=`, or from some token on."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np

from ..autograd.threads import limit_threads
from .call import calling, this_call
from .invocations import Counts, acting_on, counts_of, invocations, until
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
        raise ValueError(f"{BASE!r} needs the base weights, and a KaSA, PiSSA or OLoRA adapter has changed them")
    if peft_model.base_model.saved:
        raise ValueError("adapter_names does not go with modules_to_save: a batch goes through one copy of them")
    return names


def in_rows(peft_model: Any, names: list[str] | None, counts: Counts) -> AbstractContextManager[Any]:
    """What a call of the model is made in. One thread: the layers look rows up by their place in the whole batch.

    names: an adapter for each row, or None. counts: on which tokens those act that begin at some token.
    """
    stack = ExitStack()
    if names is not None:
        stack.enter_context(calling(peft_model.base_model.owner, rows=tuple(names)))
    stack.enter_context(acting_on(counts))
    stack.enter_context(limit_threads(1))
    return stack


def forward_in_rows(peft_model: Any, adapter_names: Any, alora_offsets: Any, args: Any, kwargs: Any) -> Any:
    """A call of the model in which rows have adapters of their own, or adapters begin at some token."""
    ids, tuner = kwargs.get("input_ids", args[0] if args else None), peft_model.base_model
    names = None if adapter_names is None else checked_rows(peft_model, adapter_names, 0 if ids is None else len(ids))
    invoking = invocations(peft_model.peft_config, names or peft_model.active_adapters)
    counts: Counts = {}
    if invoking and ids is not None and not this_call(tuner.owner).disabled:
        counts = counts_of(ids, invoking, kwargs.get("past_key_values"), alora_offsets)
    with in_rows(peft_model, names, counts):
        return tuner(*args, **kwargs)


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
        rows, length = text.ids.shape
        repeated = None if names is None else np.repeat(checked_rows(peft_model, names, rows), times).tolist()
        counts = counts_of(text.ids, invoking, None, offsets)
        starts = {tokens: np.where(found, length - found, -1).repeat(times) for tokens, found in counts.items()}
        return lambda: in_rows(peft_model, repeated, until(text.length, starts))

    return {**options, "row_calls": row_calls}
