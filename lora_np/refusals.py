"""Refusals are raised where they concern their reader: at the call that a user wrote, not twelve frames below.

Only errors that the library raises itself, with a sentence about what it was given. Whatever else goes wrong, in
NumPy, in a user's own class or by a mistake in here, keeps its whole traceback. `LORA_NP_FULL_TRACEBACKS=1`: all do.
"""

import dis
import functools
import os
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
    room = last.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    return room == "lora_np" and last.tb_frame.f_code.co_code[last.tb_lasti] == RAISE
