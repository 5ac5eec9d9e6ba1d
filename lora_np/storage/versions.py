"""Reading files of one version, while others may be replacing them.

A file is opened once, and everything is read from that open file: if it is replaced meanwhile, the old one is still
there for those who have it open. Several files are of one version if there was a moment at which all of them had their
names, and no save was half done: that is looked at after each is opened. If there was none, all are opened again.
"""

import contextlib
import functools
import os
import stat
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from ..expect import expect_path
from . import journal
from .journal import NAME, Journal

P, T = ParamSpec("P"), TypeVar("T")
StrPath = str | os.PathLike[str]
PATIENCE, PAUSE = 20.0, 0.001  # seconds: until a folder that changes all the time is given up; between two tries


class ReplacedMeanwhile(Exception):  # noqa: N818 (never seen outside)
    """Files were replaced between one and the next: `in_one_version` begins again."""


def in_one_version(directory: StrPath, read: Callable[[], T]) -> T:
    """read(), in which all files of `directory` that `opened` and `is_there` see are those of one save.

    `read` is called again if they were replaced while it opened them. OSError if that goes on for 20 seconds.
    """
    folder = expect_path(directory, "directory", "the path of a folder")
    if _view_of(folder) is not None:
        return read()
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(ReplacedMeanwhile), _View(folder) as view:
            return copy_context().run(_read_in, view, read)  # a context that ends with it, whatever interrupts it
        if time.monotonic() > end:
            raise OSError(f"{folder} is written to all the time: try again when that has ended")
        time.sleep(PAUSE)


def _read_in(view, read):
    _views.set((*_views.get(), view))
    return read()


def one_version(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that reads the directory which is its first argument: see `in_one_version`."""

    @functools.wraps(function)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        directory: Any = next(iter((*args, *kwargs.values())))
        return in_one_version(directory, lambda: function(*args, **kwargs))

    return reading


def opened(path: StrPath) -> BinaryIO:
    """The file, open for reading; its `name` is where it is now. FileNotFoundError, in a sentence, if it is no file."""
    path = Path(path)
    return in_one_version(path.parent, lambda: _current_view(path).open(path))


def is_there(path: StrPath) -> bool:
    """Is there such a file, or will there be when a save that was interrupted is finished?

    FileNotFoundError if something else has this name, such as a folder, a pipe, or a link that leads nowhere.
    """
    path = Path(path)
    return in_one_version(path.parent, lambda: _current_view(path).has(path))


def check_unmoved(file: BinaryIO) -> None:
    """ReplacedMeanwhile, inside of `in_one_version`, if the open file has no longer the name that it was opened by."""
    if not _same(file.fileno(), Path(file.name)):
        raise ReplacedMeanwhile


class _View:
    """A folder as it was at one moment: the journal of a save that is not finished, and what was looked at so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.real = folder, os.path.realpath(folder)
        self._handles: list[tuple[Path, int]] = []  # kept open, so that no other file gets the same number
        self._absent: list[Path] = []
        self._journal_handle: int | None = None
        self.journal: Journal | None = None

    def __enter__(self) -> "_View":
        if os.path.isfile(self.folder / NAME):
            with contextlib.suppress(OSError):
                self._journal_handle = os.open(self.folder / NAME, os.O_RDONLY)
                self.journal = journal.read(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        for _path, handle in self._handles:
            os.close(handle)
        if self._journal_handle is not None:
            os.close(self._journal_handle)

    def has(self, path: Path) -> bool:
        """Is there such a file?"""
        if any(os.path.isfile(self._find(path)) for _ in range(2)):  # it may take its name between two looks
            return True
        if not self._is_changed(path):
            self._absent.append(path)
        self.check()
        if not self._is_changed(path):
            _refuse_others(path)
        return False

    def open(self, path: Path) -> BinaryIO:
        """The file, open; see `opened`."""
        if not self.has(path):
            raise FileNotFoundError(f"{path} {_why_not(path)}")
        try:
            file = open(self._find(path), "rb")  # noqa: SIM115 (whoever asked for it closes it)
        except FileNotFoundError:  # it took its name, or went, between one call and the next
            raise ReplacedMeanwhile from None
        except PermissionError as error:
            raise PermissionError(f"{path} cannot be read: you have no permission ({error.strerror})") from None
        try:
            if not self._is_changed(path):
                self._handles.append((path, os.dup(file.fileno())))
            self.check()
        except BaseException:
            file.close()
            raise
        return file

    def check(self) -> None:
        """ReplacedMeanwhile if what was looked at is not of one version."""
        place = self.folder / NAME
        handle = self._journal_handle
        is_same = _same(handle, place) if handle is not None else not os.path.isfile(place)
        if not (is_same and all(_same(handle, path) for path, handle in self._handles)):
            raise ReplacedMeanwhile
        if any(map(os.path.isfile, self._absent)):
            raise ReplacedMeanwhile

    def _is_changed(self, path: Path) -> bool:
        """Does the save that is not finished change this file?"""
        return self.journal is not None and (path.name in self.journal.changes or path.name in self.journal.removed)

    def _find(self, path: Path) -> Path:
        """Where the file is, if it is there."""
        return path if self.journal is None else self.journal.find(path.name)


def _refuse_others(path: Path) -> None:
    """FileNotFoundError if something that is no file has this name; ReplacedMeanwhile if a file has taken it by now."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return
    if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and os.path.isfile(path)):
        raise ReplacedMeanwhile
    raise FileNotFoundError(f"{path} {_why_not(path)}")


def _why_not(path: Path) -> str:
    try:
        return "is a directory, not a file" if stat.S_ISDIR(os.stat(path).st_mode) else "is no file"
    except PermissionError:
        return f"cannot be looked for: you have no permission to look into {path.parent}"
    except OSError:
        return "is no file: it is a link that leads nowhere" if os.path.islink(path) else "does not exist"


_views: ContextVar[tuple[_View, ...]] = ContextVar("views", default=())


def _view_of(folder: Path) -> _View | None:
    if not _views.get():
        return None
    real = os.path.realpath(folder)
    return next((view for view in _views.get() if view.real == real), None)


def _current_view(path: Path) -> _View:
    view = _view_of(path.parent)
    assert view is not None
    return view


def _same(handle: int, path: Path) -> bool:
    """Has the open file this name?"""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
