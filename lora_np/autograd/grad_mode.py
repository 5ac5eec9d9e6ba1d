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


def no_grad():
    """Inside this block nothing is recorded: results need no gradient and nothing is kept for one."""
    return temporarily(grad_mode, enabled=False, noted=None)


@contextmanager
def note_leaves():
    """`no_grad`, but {id: leaf} is filled with what operations read that needs a gradient."""
    noted = {}
    with temporarily(grad_mode, enabled=False, noted=noted):
        yield noted
