"""Whether operations are recorded: yes, unless a thread is inside `no_grad`."""

import threading
from contextlib import contextmanager


class _GradMode(threading.local):
    enabled = True
    noted = None  # inside `note_leaves`: {id: leaf}, where `record` puts the leaves that operations read


grad_mode = _GradMode()


def is_grad_enabled():
    """Are operations of this thread being recorded?"""
    return grad_mode.enabled


@contextmanager
def no_grad():
    """Inside this block nothing is recorded: results need no gradient and nothing is kept for one."""
    with _set(False, None):
        yield


@contextmanager
def note_leaves():
    """`no_grad`, but {id: leaf} is filled with what operations read that needs a gradient."""
    noted = {}
    with _set(False, noted):
        yield noted


@contextmanager
def _set(enabled, noted):
    before = grad_mode.enabled, grad_mode.noted
    grad_mode.enabled, grad_mode.noted = enabled, noted
    try:
        yield
    finally:
        grad_mode.enabled, grad_mode.noted = before
