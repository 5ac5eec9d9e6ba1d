"""What one call asks of the adapters, beside what the model is set to: none at all, or others for each row.

It travels with the call and is not written into the layers. So several threads may call one model in different ways,
an interruption leaves nothing behind, and a block that is computed again for its gradient finds what it found first.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from ..autograd import layout


class Call(NamedTuple):
    """disabled: are the adapters left out?  rows: an adapter's name for each row of the batch, or None."""

    disabled: bool = False
    rows: tuple | None = None


ORDINARY = Call()
_calls = ContextVar("lora_np_calls", default=None)  # {the adapted model that is called: Call}, or None


def this_call(model):
    """The `Call` of an adapted model that is running now."""
    calls = _calls.get()
    return ORDINARY if calls is None else calls.get(model, ORDINARY)


@contextmanager
def calling(model, **changes):
    """Inside this block, calls of this adapted model, and of no other, are as said: `disabled=True`, or `rows=...`."""
    calls = _calls.get() or {}
    token = _calls.set({**calls, model: calls.get(model, ORDINARY)._replace(**changes)})
    try:
        yield
    finally:
        _calls.reset(token)


def forward_rows(layer, x, names):
    """An adapted layer's result with another adapter for each row: one pass per adapter over its rows."""
    if x.ndim == 1:  # positions, which are the same for every row
        x = np.broadcast_to(x, (len(names), len(x)))
    rows = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    parts = [layer.forward_with([n] if n in layer.adapters else [], x[np.array(i)]) for n, i in rows.items()]
    order = np.argsort([i for group in rows.values() for i in group])
    return layout.concatenate(parts)[order]
