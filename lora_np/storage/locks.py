"""Locks that end with the process that holds them, however it ends: the system keeps them (flock).

Where there are none (in a browser, on some network disks; on Windows for folders) the work goes on without: files are
still replaced in one step, but two writers are not told of each other.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
msvcrt: ModuleType | None
try:
    import fcntl
except ImportError:
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
WAIT, PAUSE = 60.0, 0.002  # seconds: for another's save, which takes milliseconds; between two tries
CLAIM = ".run.lora_np-tmp"  # named as a temporary file, so that the next save removes what a killed run left

_held: set[int] = set()


def _forget_after_fork() -> None:
    """A forked process has copies of the handles, which would keep the locks when their owner is gone."""
    for handle in list(_held):
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def try_lock(handle: int) -> bool | None:
    """Lock an open file until `release`: True; False if somebody else has it; None where there are no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            return None
    except OSError as error:
        return False if error.errno in BUSY else None
    _held.add(handle)
    return True


def release(handle: int) -> None:
    """Close an open file, which unlocks it."""
    _held.discard(handle)
    with contextlib.suppress(OSError):
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Inside this block nobody else commits a save to `folder`; yields whether that is so. Others are waited for.

    OSError if that takes longer than a minute.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; one may be writable and not readable
        yield False
        return
    try:
        end = time.monotonic() + WAIT
        while (has_lock := try_lock(handle)) is False:
            if time.monotonic() > end:
                raise OSError(
                    f"{folder}: another process has been saving to it for {WAIT:.0f} s: choose another folder"
                )
            time.sleep(PAUSE)
        yield bool(has_lock)
    finally:
        release(handle)


def claim(folder: Path) -> int | None:
    """Make the folder one run's own until `give_up`: the handle for that, None where there are no locks.

    BlockingIOError if another run has it. One that was killed has it no more. Single saves are not kept out.
    """
    path, end = folder / CLAIM, time.monotonic() + 50 * PAUSE  # a save that looks whether it is left locks it, too
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        has_lock = try_lock(handle)
        if has_lock and _is_at(handle, path):
            return handle
        release(handle)
        if has_lock is None:
            _unlink(path)
            return None
        if has_lock is False and time.monotonic() > end:
            raise BlockingIOError(
                f"another run is writing to {folder}: wait until it has ended, or choose another folder"
            )
        time.sleep(PAUSE)


def give_up(folder: Path, handle: int | None) -> None:
    """Undo `claim`."""
    if handle is not None:
        _unlink(folder / CLAIM)  # while it is locked, so that nobody locks a file that is gone
        release(handle)
        if msvcrt is not None:  # which deletes no open file
            _unlink(folder / CLAIM)


def _is_at(handle: int, path: Path) -> bool:
    """Is the open file the one that has this name?"""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
