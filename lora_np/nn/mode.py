"""Evaluation for one call: dropout is off in it, whatever the modules are set to, and no other call is changed."""

from contextlib import AbstractContextManager
from contextvars import ContextVar

from ..autograd.temporarily import holding

_evaluating: ContextVar[bool] = ContextVar("lora_np_evaluating", default=False)
is_evaluating = _evaluating.get


def evaluating() -> AbstractContextManager[None]:
    """Inside this block, all modules compute as in evaluation: `module.training` is False.

    `eval()` changes the modules themselves, and so what every other thread computes with them; this changes nothing.
    """
    return holding(_evaluating, True)
