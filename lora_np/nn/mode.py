"""Evaluation for one call: dropout is off in it, whatever the modules are set to, and no other call is changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_evaluating: ContextVar[bool] = ContextVar("lora_np_evaluating", default=False)
is_evaluating = _evaluating.get


@contextmanager
def evaluating() -> Iterator[None]:
    """Inside this block, all modules compute as in evaluation: `module.training` is False.

    `eval()` changes the modules themselves, and so what every other thread computes with them; this changes nothing.
    """
    before = _evaluating.get()
    try:
        try:
            _evaluating.set(True)
            yield
        finally:
            _evaluating.set(before)
    finally:
        _evaluating.set(before)  # once more: Ctrl-C may have come just before the line above
