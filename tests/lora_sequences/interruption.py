"""An exception at a chosen line of this library's code, as Ctrl-C or a full memory may raise one anywhere."""

import os
import sys

import lora_np

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


def lines_of(action):
    """How many lines of this library `action()` runs."""
    lines = _Lines()
    lines.run(action)
    return lines.count


def interrupted(action, at, error):
    """Run `action()` and raise `error` before the line of this number (from 1); (where that was, what came out)."""
    lines = _Lines(at, error)
    try:
        lines.run(action)
    except BaseException as raised:  # the error itself, or what it was turned into
        return lines.where, raised
    return lines.where, None
