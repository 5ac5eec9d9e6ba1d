"""Whether operations are recorded: yes, unless a thread is inside `no_grad`."""

import threading

from .temporarily import temporarily


class _GradMode(threading.local):
    enabled = True


grad_mode = _GradMode()


def is_grad_enabled():
    """Are operations of this thread being recorded?"""
    return grad_mode.enabled


def no_grad():
    """Inside this block nothing is recorded: results need no gradient and nothing is kept for one."""
    return temporarily(grad_mode, enabled=False)
