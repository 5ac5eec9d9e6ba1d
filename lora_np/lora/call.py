"""What one call asks of the adapters where it differs from what the model is set to: none, or one for each row.

It travels with the call and is not written into the layers. So several threads may call one model in different ways,
an interruption leaves nothing behind, and a block that is computed again for its gradient finds what it found first.
"""

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..autograd.temporarily import holding
from .rows import Rows


class Call(NamedTuple):
    """disabled: are the adapters left out?  rows: which adapter each row of the batch goes through, or None."""

    disabled: bool = False
    rows: Rows | None = None


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


def calling(owner: Owner, **changes: Any) -> AbstractContextManager[None]:
    """Inside this block, calls of that one adapted model have these fields of `Call`: `disabled=True`, or `rows=...`.

    owner: what stands for the model, `LoraModel.owner`.
    """
    calls = _calls.get() or {}
    return holding(_calls, {**calls, owner: calls.get(owner, owner.usual)._replace(**changes)})
