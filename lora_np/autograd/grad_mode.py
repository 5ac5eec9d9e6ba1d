"""Whether operations are recorded: yes, unless a thread is inside `no_grad`."""

import threading
from contextlib import contextmanager


class _GradMode(threading.local):
    enabled = True


grad_mode = _GradMode()


def is_grad_enabled():
    """Are operations of this thread being recorded?"""
    return grad_mode.enabled


@contextmanager
def no_grad():
    """Inside this block nothing is recorded: results need no gradient and nothing is kept for one."""
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        yield
    finally:
        grad_mode.enabled = before
