"""Whether operations are recorded: yes, unless a thread is inside `no_grad`."""

import threading
from contextlib import contextmanager

from .temporarily import temporarily


class _GradMode(threading.local):
    enabled = True
    noted = None  # inside `note_leaves`: {id: leaf}, where `record` puts the leaves that operations read


grad_mode = _GradMode()


def is_grad_enabled():
    """Are operations of this thread being recorded?"""
    return grad_mode.enabled


def no_grad(function=None):
    """Inside this block nothing is recorded: results need no gradient and nothing is kept for one.

    Also over a function: `@no_grad()` or `@no_grad`.
    """
    block = temporarily(grad_mode, enabled=False, noted=None)
    return block if function is None else block(function)


def enable_grad(function=None):
    """Inside this block operations are recorded, also where it stands inside `no_grad`."""
    return set_grad_enabled(True) if function is None else set_grad_enabled(True)(function)


def set_grad_enabled(mode):
    """A block inside which operations are recorded, or not: `with set_grad_enabled(training): ...`."""
    return temporarily(grad_mode, enabled=bool(mode), noted=None)


@contextmanager
def note_leaves():
    """`no_grad`, but {id: leaf} is filled with what operations read that needs a gradient."""
    noted = {}
    with temporarily(grad_mode, enabled=False, noted=noted):
        yield noted
