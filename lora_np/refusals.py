"""Refusals and warnings point at the line that concerns their reader: the call that a user wrote.

A refusal is raised there and not twelve frames below. That holds only for errors that the library raises itself, with
a sentence about what it was given. Whatever else goes wrong, in NumPy, in a user's own class or by a mistake in here,
keeps its whole traceback. `LORA_NP_FULL_TRACEBACKS=1`: all do.
"""

import dis
import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")
RAISE = dis.opmap["RAISE_VARARGS"]


def refuses_here(function: Callable[P, R]) -> Callable[P, R]:
    """The function, out of which a refusal comes without the frames that are below it."""

    @functools.wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not is_refusal(error) or os.environ.get("LORA_NP_FULL_TRACEBACKS") == "1":
                raise
            refusal = error
        raise refusal.with_traceback(None)

    return asked


def is_refusal(error: Exception) -> bool:
    """Was the error made by a `raise` in lora_np?"""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    return _room(last.tb_frame) == "lora_np" and last.tb_frame.f_code.co_code[last.tb_lasti] == RAISE


def warn(message: str) -> None:
    """A UserWarning at the line that called into lora_np, through however many of its functions."""
    level, frame = 1, sys._getframe()
    while frame is not None and _room(frame) == "lora_np":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _room(frame) -> str:
    """The package that a frame's function is of."""
    return frame.f_globals.get("__name__", "").partition(".")[0]
