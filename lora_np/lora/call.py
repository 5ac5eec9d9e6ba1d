"""What one call asks of the adapters where it differs from what the model is set to: none, or one for each row.

It travels with the call and is not written into the layers. So several threads may call one model in different ways,
an interruption leaves nothing behind, and a block that is computed again for its gradient finds what it found first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Tensor
from ..autograd.shape_ops import concatenate
from .invocations import for_rows
from .types import Input


class Call(NamedTuple):
    """disabled: are the adapters left out?  rows: an adapter's name for each row of the batch, or None."""

    disabled: bool = False
    rows: tuple[str, ...] | None = None


ORDINARY = Call()


class Owner:
    """Stands for an adapted model where a call says what it asks of the adapters, each for one. `usual`: of all calls.

    It does not change: a model that is to be called in another way from now on gets another one.
    """

    def __init__(self, usual: Call = ORDINARY) -> None:
        self.usual = usual


# {what stands for an adapted model, its `owner`: Call}, or None outside any `calling`
_calls: ContextVar[dict[Any, Call] | None] = ContextVar("lora_np_calls", default=None)


def this_call(owner: Owner | None) -> Call:
    """What the call that is running now asks of the adapted model that `owner` stands for."""
    usual, calls = ORDINARY if owner is None else owner.usual, _calls.get()
    return usual if calls is None else calls.get(owner, usual)


def in_block(owner: Owner) -> bool:
    """Is this inside a block that leaves the adapters of this model out?"""
    return (_calls.get() or {}).get(owner, ORDINARY).disabled


@contextmanager
def calling(owner: Owner, **changes: Any) -> Iterator[None]:
    """Inside this block, calls of that one adapted model have these fields of `Call`: `disabled=True`, or `rows=...`.

    owner: what stands for the model, `LoraModel.owner`.
    """
    before = _calls.get()
    calls = before or {}
    try:
        try:
            _calls.set({**calls, owner: calls.get(owner, owner.usual)._replace(**changes)})
            yield
        finally:
            _calls.set(before)
    finally:
        _calls.set(before)  # once more: Ctrl-C may have come just before the line above


def forward_rows(layer: Any, x: Input, names: Sequence[str]) -> Tensor:
    """An `AdaptedLayer`'s result where row i of the batch goes through the adapter names[i]: one pass per adapter."""
    if x.ndim == 1:  # positions, which are the same for every row
        x = np.broadcast_to(x, (len(names), len(x)))
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    own = [([name] if name in layer.adapters else [], np.array(i)) for name, i in rows.items()]
    parts = [for_rows(i, layer.forward_with, names, x[i]) for names, i in own]
    order = np.argsort([i for group in rows.values() for i in group])
    return concatenate(parts)[order]
