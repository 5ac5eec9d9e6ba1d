"""Locks that also hold in a process that is forked: the child finds them open, and what they guard complete."""

import os
import threading


def forkable_lock():
    """A lock that a thread may take again while it has it. A fork waits until it is free: hold it for moments only."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


leaves = forkable_lock()  # held while a leaf gets its graph entry, or a gradient is added to what it has
