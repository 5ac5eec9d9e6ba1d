"""Writing so that an interruption loses nothing: one file, or several as one.

Every write goes to a temporary file beside its target and then takes the target's name in one step, so a reader finds
the old file or the new one, never half of either. Files that belong together are replaced `together`: a reader finds
all of the old ones or all of the new ones, whenever the process is killed (see journal.py).

What a killed process leaves are temporary files. The next save to the folder removes them; those of a process that
still writes are locked by it.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ..expect import expect_path
from . import journal
from .journal import NAME, TEMPORARY, Change, Journal, fingerprint, sync_folder, target
from .locks import Handle, claim, fcntl, give_up, locked

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def together(directory: StrPath) -> Iterator[None]:
    """Files that are written to `directory` inside this block are replaced as one when it ends well.

    If it does not, everything is as it was. The folder is made if it is not there. Inside of another such block, also
    one for another folder, nothing is replaced before that one ends; each folder is then replaced as one. OSError, in a
    sentence, if something cannot be written.
    """
    directory, outer = expect_path(directory, "directory", "the path of a folder"), _saves.get()
    if outer is not None:
        _join(outer, directory)
        yield
        return
    saves: list[_Save] = []
    try:
        try:
            _saves.set(saves)
            _join(saves, directory)
            yield
        finally:
            _saves.set(None)
        for save in saves:
            with telling(save.folder):
                save.commit()
        _end(saves)
    finally:  # again, for a Ctrl-C may have come just before
        _saves.set(None)
        _end(saves)


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it replaces `path` at once, otherwise it is deleted.

    Inside of `together`, that waits until all files are written. A file that is replaced keeps its permissions, and its
    owner where that is allowed; a link goes on leading to the same place. OSError, in a sentence, if `path` cannot be
    written.
    """
    path = Path(path)
    with together(path.parent):
        save = _join(_saves.get() or [], path.parent)
        with telling(path):
            staged = save.stage(path.name)
        with telling(path, staged.temporary):
            yield staged.temporary
        with telling(path):
            save.keep(path.name, staged)


def remove(path: StrPath) -> None:
    """Delete a file, if it is there; inside of `together`, if it is there when all others are replaced."""
    path = Path(path)
    if _saves.get() is not None or os.path.lexists(path):
        with together(path.parent):
            _join(_saves.get() or [], path.parent).remove(path.name)


@contextlib.contextmanager
def claimed(directory: StrPath) -> Iterator[None]:
    """Inside this block the directory is one run's own: for another one that claims it, there is a BlockingIOError.

    It is made if it is not there, and goes again if nothing was put into it. OSError, in a sentence, if nothing can be
    put into it. Single saves are not kept out, and what was killed keeps out nobody.
    """
    folder, made, handle = Path(directory), list[Path](), None
    try:
        with telling(folder):
            made = _make_folder(folder)
            handle = claim(folder)
        try:
            yield
        finally:
            give_up(folder, handle)
    finally:  # again, for a Ctrl-C may have come just before
        give_up(folder, handle)
        _remove_empty(made)


@contextlib.contextmanager
def telling(path: StrPath, temporary: Path | None = None) -> Iterator[None]:
    """Errors of the system inside this block say in a sentence that `path` cannot be written, and why.

    temporary: only those that tell of this file, or of none
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (temporary is not None and not _concerns(error, temporary)):
            raise  # a sentence already, or about something else
        raise _told(error, Path(path)) from None


def _told(error: OSError, path: Path) -> OSError:
    """The same error in a sentence."""
    told = type(error)(f"{path} cannot be written: {_reason(error, path)}; what was there is unchanged")
    told.errno = error.errno
    return told


def _concerns(error: OSError, temporary: Path) -> bool:
    """Is this error of a block of foreign code about writing the temporary file?"""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    return str(error.filename) == str(temporary)


def _reason(error: OSError, path: Path) -> str:
    """Why, and what can be done."""
    what = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({what}): free some space, or choose a folder on another"
    if error.errno == errno.EFBIG:
        return f"the file would be larger than is allowed here ({what}): choose another folder"
    if error.errno == errno.EROFS:
        return f"the disk can only be read ({what}): choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"you have no permission to write there ({what}): choose another folder"
    if error.errno == errno.ENAMETOOLONG:
        return f"the name is too long ({what}): choose a shorter one"
    if (place := next((p for p in (path, *path.parents) if os.path.lexists(p)), None)) and not place.is_dir():
        if not place.exists():
            return f"{place} is a link to {os.readlink(place)}, which does not exist"
        if not place.is_file():
            return f"{place} is neither a file nor a folder"
        return f"{place} is a file, and a folder is needed there"
    return what


@dataclass
class _Staged:
    """A file that is being written: what it will replace, and the temporary file, which is locked while it is open."""

    target: Path
    before: os.stat_result | None
    temporary: Path
    handle: Handle

    def settle(self) -> None:
        """Its numbers are on the disk, its permissions and owner are those of the file that it replaces."""
        os.fsync(self.handle.number)
        if self.before is not None:
            _take_owner(self.temporary, self.before)
            os.chmod(self.temporary, stat.S_IMODE(self.before.st_mode))

    def discard(self) -> None:
        """Delete the temporary file, if it is still one."""
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)


class _Save:
    """Files on their way to one folder."""

    def __init__(self, folder: Path, made: list[Path]) -> None:
        self.folder, self.made = folder, made
        self.real = os.path.realpath(folder)
        self.kept: dict[str, _Staged] = {}
        self.open: list[_Staged] = []
        self.removed: list[str] = []
        self.is_committed = False

    def stage(self, name: str) -> _Staged:
        """A new temporary file for the file `name`."""
        path = target(self.folder, name)
        if str(path.parent) != self.real:  # it is a link
            _tidy(path.parent)
        before = _stat(path)
        if before is not None and not stat.S_ISREG(before.st_mode):
            what = "a folder" if stat.S_ISDIR(before.st_mode) else "no file"
            raise IsADirectoryError(f"{path} cannot be written: it is {what}; choose another name")
        mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o777 | 0o600
        staged = _Staged(path, before, *_temporary(path, mode))
        self.open.append(staged)
        return staged

    def keep(self, name: str, staged: _Staged) -> None:
        """This file is written."""
        staged.settle()
        self._forget(name)
        self.kept[name] = staged
        if name in self.removed:
            self.removed.remove(name)

    def remove(self, name: str) -> None:
        """Delete this file when all others are replaced."""
        self._forget(name)
        if name not in self.removed:
            self.removed.append(name)

    def _forget(self, name: str) -> None:
        """What was written for this file before does not count."""
        if name in self.kept:
            self.kept.pop(name).discard()

    def commit(self) -> None:
        """Let the files take their names, as one."""
        if not self.kept and not self.removed:
            return
        with locked(self.folder):
            journal.finish(self.folder)
            self._replace()
        self.made = []

    def _replace(self) -> None:
        if fcntl is None:  # Windows renames no open file
            for staged in self.open:
                staged.handle.close()
        changes = {
            name: Change(staged.temporary.name, fingerprint(staged.target), fingerprint(staged.temporary))
            for name, staged in self.kept.items()
        }
        there = [name for name in self.removed if os.path.lexists(self.folder / name)]
        removed = {name: fingerprint(self.folder / name) for name in there}
        plan = Journal(self.folder, changes, removed)
        if sum(map(_differs, changes.values())) + len(removed) > 1:
            self._with_journal(plan)
        else:  # one step, also for those who know nothing of the journal
            plan.carry_out()

    def _with_journal(self, plan: Journal) -> None:
        temporary, handle = _temporary(self.folder / NAME, 0o666)
        try:
            temporary.write_bytes(plan.encode())
            os.chmod(temporary, 0o644)  # whoever may read the files must be able to read it, and it says nothing
            os.fsync(handle.number)
            sync_folder(self.folder)
            os.replace(temporary, self.folder / NAME)
            self.is_committed = True  # from here on the new files count
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            handle.close()
        try:
            sync_folder(self.folder)
            plan.carry_out(clear=True)
        except BaseException:
            plan.carry_out()
            plan.close()
            raise
        plan.close()

    def end(self) -> None:
        """Let go of everything; what is not in its place is deleted, with folders that were made for it."""
        for staged in self.open:
            if not self.is_committed:
                staged.discard()
            staged.handle.close()
        _remove_empty(self.made)


_saves: ContextVar[list[_Save] | None] = ContextVar("saves", default=None)  # those in progress here, by folder


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _saves.set(None))  # what the parent has begun, it ends


def _end(saves: list[_Save]) -> None:
    for save in saves:
        save.end()


def _join(saves: list[_Save], folder: Path) -> _Save:
    """The save to this folder among those in progress: the one that is there, or a new one."""
    real = os.path.realpath(folder)
    found = next((save for save in saves if save.real == real), None)
    if found is None:
        with telling(folder):
            found = _Save(folder, _make_folder(folder))
            _tidy(folder)
        saves.append(found)
    return found


def _differs(change: Change) -> bool:
    """Does the file change? Of a large one the fingerprint does not know."""
    return change.before != change.after or change.after is None or change.before is None


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those that it lies in; returns those that were not there."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as far as there is nothing in them."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _take_owner(path: Path, before: os.stat_result) -> None:
    """Give a file the owner and the group of the one before, or the group alone, as far as that is allowed."""
    now = os.stat(path)
    if (now.st_uid, now.st_gid) == (before.st_uid, before.st_gid):
        return
    for owner in (before.st_uid, -1):
        with contextlib.suppress(OSError, AttributeError):  # Windows has no owners
            os.chown(path, owner, before.st_gid)
            return


def _temporary(path: Path, mode: int) -> tuple[Path, Handle]:
    """A new file beside `path`, with the permissions that this process gives to new files, open and locked."""
    start = os.fsencode(path.name)[:100].decode(errors="ignore")
    while True:
        temporary = path.with_name(f".{start}.{secrets.token_hex(4)}{TEMPORARY}")
        handle = Handle(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if fcntl is None or handle.try_lock() is None or handle.is_at(temporary):
            return temporary, handle
        handle.close()  # it was taken for a leftover before it was locked


def _tidy(folder: Path) -> None:
    """Finish what a killed save left half done, and delete the temporary files that nobody has open any more.

    That comes before anything is written: it may be what fills the disk.
    """
    with contextlib.suppress(PermissionError), locked(folder) as is_alone:
        journal.finish(folder)
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(TEMPORARY)] if is_alone else []
        for name in names:
            _remove_if_left(folder / name)


def _remove_if_left(path: Path) -> None:
    with contextlib.suppress(OSError):
        handle = Handle(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        if handle.try_lock():
            os.unlink(path)
        handle.close()
