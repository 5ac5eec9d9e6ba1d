"""An exception at a chosen line of this library's code, as Ctrl-C or a full memory may raise one anywhere."""

import contextlib
import copy
import os
import sys
import warnings

import numpy as np
from hypothesis import note

import lora_np
from lora_sequences.sides import logits
from lora_sequences.snapshots import changes, snapshot

FOLDER = os.path.dirname(lora_np.__file__)


class _Lines:
    """Counts the lines of this library that are run, and raises at the one that was asked for."""

    def __init__(self, at=None, error=None):
        self.count, self.at, self.error, self.where = 0, at, error, None

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                self.where = f"{os.path.relpath(frame.f_code.co_filename, FOLDER)}:{frame.f_lineno}"
                raise self.error
        return self

    def run(self, action):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            return action()
        finally:
            sys.settrace(before)


def interrupted(action, at, error):
    """Run `action()` and raise `error` before the line of this number (from 1); (where that was, what came out)."""
    lines = _Lines(at, error)
    try:
        lines.run(action)
    except BaseException as raised:  # the error itself, or what it was turned into
        return lines.where, raised
    return lines.where, None


def check_interrupted(model, what, operation, part, error):
    """Do an operation on copies of a model: once to the end, once with `error` raised at that part (0 to 1) of it.

    After that the copy must be as the model, or as the one on which the operation was done, and compute the same.
    """
    done, broken_off, lines = copy.deepcopy(model), copy.deepcopy(model), _Lines()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ValueError, RuntimeError, KeyError):  # it may be refused
            lines.run(lambda: operation(done))
        where, raised = interrupted(lambda: operation(broken_off), 1 + int(part * (lines.count - 1)), error)
    note(f"{what}, {type(error).__name__} at {where}, came out as {raised!r}")
    before, expected, after = snapshot(model), snapshot(done), snapshot(broken_off)
    assert after in (before, expected), f"{what} broken off at {where}, and half done:\n{changes(before, after)}"
    like = model if after == before else done
    if what not in ("unload", "merge_and_unload") or after == before:
        assert np.array_equal(logits(broken_off), logits(like)), f"{what} broken off at {where}, and other logits"
