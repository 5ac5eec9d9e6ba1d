"""Locks that end with the process that holds them, however it ends: the system keeps them (flock).

Where there are none (in a browser, on some network disks; on Windows for folders) the work goes on without: files are
still replaced in one step, but two writers are not told of each other.
"""

import contextlib
import errno
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
msvcrt: ModuleType | None
try:
    import fcntl
except ImportError:
    fcntl = None
if not hasattr(fcntl, "flock"):  # JupyterLite has an empty module of this name
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
WAIT, PAUSE = 60.0, 0.002  # seconds: for another's save, which takes milliseconds; between two tries
CLAIM = ".run.lora_np-tmp"  # named as a temporary file, so that the next save removes what a killed run left

_held: "weakref.WeakSet[Handle]" = weakref.WeakSet()


class Handle:
    """An open file or folder. It is closed, and so unlocked, by `close` or when nobody holds it any more."""

    number = -1  # until it is open

    def __init__(self, path: Path, flags: int, mode: int = 0o666) -> None:
        self.number = os.open(path, flags | getattr(os, "O_BINARY", 0), mode)

    def try_lock(self) -> bool | None:
        """Lock it: True; False if somebody else has the lock; None where there are no locks."""
        try:
            if fcntl is not None:
                fcntl.flock(self.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt is not None:
                msvcrt.locking(self.number, msvcrt.LK_NBLCK, 1)
            else:
                return None
        except OSError as error:
            return False if error.errno in BUSY else None
        _held.add(self)
        return True

    def is_at(self, path: Path) -> bool:
        """Has it still this name?"""
        try:
            return os.path.samestat(os.fstat(self.number), os.stat(path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close it."""
        if self.number >= 0:
            self.number = os.close(self.number) or -1

    def __del__(self) -> None:
        self.close()


def _forget_after_fork() -> None:
    """A forked process has copies of the open files, which would keep the locks when their owner is gone."""
    for handle in list(_held):
        handle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Inside this block nobody else commits a save to `folder`; yields whether that is so. Others are waited for.

    OSError if that takes longer than a minute.
    """
    try:
        handle = Handle(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; one may be writable and not readable
        yield False
        return
    try:
        end = time.monotonic() + WAIT
        while (has_lock := handle.try_lock()) is False:
            if time.monotonic() > end:
                raise OSError(
                    f"{folder}: another process has been saving to it for {WAIT:.0f} s: choose another folder"
                )
            time.sleep(PAUSE)
        yield bool(has_lock)
    finally:
        try:
            handle.close()
        finally:  # again, for a Ctrl-C may have come just before
            handle.close()


def claim(folder: Path) -> Handle | None:
    """Make the folder one run's own until `give_up`; None where there are no locks.

    BlockingIOError if another run has it. One that was killed has it no more. Single saves are not kept out.
    """
    path, end = folder / CLAIM, time.monotonic() + 50 * PAUSE  # a save that looks whether it is left locks it, too
    while True:
        handle = Handle(path, os.O_RDWR | os.O_CREAT)
        has_lock = handle.try_lock()
        if has_lock and handle.is_at(path):
            return handle
        handle.close()
        if has_lock is None:
            _unlink(path)
            return None
        if has_lock is False and time.monotonic() > end:
            raise BlockingIOError(
                f"another run is writing to {folder}: wait until it has ended, or choose another folder"
            )
        time.sleep(PAUSE)


def give_up(folder: Path, handle: Handle | None) -> None:
    """Undo `claim`."""
    if handle is not None and handle.number >= 0:
        _unlink(folder / CLAIM)  # while it is locked, so that nobody locks a file that is gone
        handle.close()
        if msvcrt is not None:  # which deletes no open file
            _unlink(folder / CLAIM)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
