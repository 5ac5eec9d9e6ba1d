"""On which tokens an aLoRA adapter acts in a call: those from the last occurrence of its invocation tokens on.

They are looked for in the ids that a PeftModel is called with. As the layers see no ids, what they are told is how many
of the last tokens of each row an adapter acts on, `counts` (B,). It travels with the call, as in `call.py`.

A text is usually read in pieces, each adding to a cache. What was found in one piece holds in those after it.
`generate` looks at the prompt alone: what is written then does not invoke, as its beginning has been computed already.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..autograd.devices import to_numpy
from ..autograd.temporarily import holding
from ..autograd.tensor import data
from .types import Array

Tokens = tuple[int, ...]
Counts = Mapping[Tokens, Array]  # {invocation tokens: counts (B,)}

_counts: ContextVar[Counts] = ContextVar("lora_np_counts", default={})  # noqa: B039 (never written into)
# {cache: {invocation tokens: at which position of the whole text each row has them, -1 for nowhere}}
_held: WeakKeyDictionary[Any, dict[Tokens, Array]] = WeakKeyDictionary()


def last_tokens(tokens: Sequence[int]) -> Array | None:
    """How many of the last tokens of each row (B,) an adapter with these invocation tokens acts on in this call."""
    return _counts.get().get(tuple(tokens))


def acting_on(counts: Counts) -> AbstractContextManager[None]:
    """Inside this block, calls of models have these counts."""
    return holding(_counts, counts)


def for_rows(rows: Array, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), where what it computes is these rows of the batch."""
    counts = _counts.get()
    if not counts:
        return function(*args)
    with acting_on({tokens: found[rows] for tokens, found in counts.items()}):
        return function(*args)


def invocations(configs: Mapping[str, Any], names: Sequence[str]) -> list[Tokens]:
    """The invocation tokens of those of these adapters that are aLoRA, each once."""
    found = [configs[name].alora_invocation_tokens for name in names if name in configs]
    return [*dict.fromkeys(tuple(tokens) for tokens in found if tokens)] if any(found) else []


def starts_in(ids: Any, tokens: Tokens) -> Array:
    """The position in each row of ids (B, T) at which `tokens` stand for the last time; -1 where they do not."""
    n = len(tokens)
    if n > ids.shape[1]:
        return np.full(len(ids), -1)
    here = (np.lib.stride_tricks.sliding_window_view(ids, n, axis=1) == np.array(tokens)).all(axis=-1)  # (B, T - n + 1)
    return np.where(here.any(axis=1), here.shape[1] - 1 - here[:, ::-1].argmax(axis=1), -1)


def counts_of(ids: Any, invoking: list[Tokens], cache: Any = None, offsets: Any = None) -> Counts:
    """The counts of a call with these ids (B, T), that adds to `cache`. offsets: PEFT's, the counts as given."""
    ids = np.atleast_2d(to_numpy(data(ids)))
    if offsets is not None:
        return dict.fromkeys(invoking, checked_offsets(offsets, len(ids)))
    past, length = getattr(cache, "length", 0), ids.shape[1]
    found, held = {}, {} if cache is None else _held.get(cache, {})
    for tokens in invoking:
        starts = starts_in(ids, tokens)
        before = held.get(tokens, np.full(len(ids), -1))
        before = np.where(before < past, before, -1)  # the cache may have been shortened since
        found[tokens] = np.where(starts >= 0, starts + past, before if len(before) == len(ids) else -1)
    if cache is not None:
        _held[cache] = found
    return until(past + length, found)


def until(length: int, starts: Mapping[Tokens, Array]) -> Counts:
    """The counts in a text of this length, from where each row has the tokens."""
    return {tokens: np.where(found >= 0, length - found, 0) for tokens, found in starts.items()}


def checked_offsets(offsets: Any, rows: int) -> Array:
    """PEFT's `alora_offsets` as counts: a number for each row, None for none. ValueError if they are no such list."""
    given = [0 if offset is None else offset for offset in to_numpy(data(offsets)).tolist()]
    if len(given) != rows or not all(type(offset) is int and offset >= 0 for offset in given):
        raise ValueError(
            f"alora_offsets must list for each of {rows} rows how many of its last tokens the adapter acts on, a whole "
            f"number or None; got {offsets!r:.80}"
        )
    return np.array(given)
