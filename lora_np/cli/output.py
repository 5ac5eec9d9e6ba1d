"""Where the main job's results go, and where else if they cannot go there."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ..storage import claimed, existing, is_there
from ..training import CheckpointError
from ..training.loop import CHECKPOINT
from .options import FinetuneOptions

ADAPTER = "adapter_config.json"
T = TypeVar("T")


class Output:
    """The folder of a run's results; another one from the moment on that nothing can be written to the first.

    folder: where the results go. It changes if `write` has to choose another.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], object] = print, ask: Callable[[str], str] | None = None
    ) -> None:
        """say: told what happens. ask: the question for another folder -> the answer; None if nobody is there."""
        self.folder, self.say, self.ask = folder, say, ask
        self._others = _elsewhere(folder)

    def write(self, action: Callable[[Path], T]) -> T:
        """action(folder), where `folder` is the first to which it can write. OSError if there is none."""
        while True:
            try:
                return action(self.folder)
            except OSError as error:
                reason = error.reason if isinstance(error, CheckpointError) else error
                self.say(f"\n{reason}.\nWhat was trained is still in memory.")
                self.folder = self._other(reason)
                self.say(f"It goes to {self.folder} instead.")

    def _other(self, error: OSError) -> Path:
        """The folder that is asked for, or the next that is likely to do. OSError if none is left."""
        suggested = next(self._others, None)
        while self.ask is not None:
            hint = f" (Enter for {suggested})" if suggested else ""
            try:
                answer = self.ask(f"Another folder{hint}: ").strip()
            except EOFError:
                break
            folder = Path(answer).expanduser()
            if answer and not is_there(folder / ADAPTER):
                return folder
            if answer:
                self.say(f"{folder} holds an adapter already.")
            elif suggested:
                break
        if suggested is None:
            raise OSError(f"{error}; there is no other folder to write to: what was trained is lost") from None
        return suggested


def _elsewhere(folder: Path) -> Iterator[Path]:
    """Folders on what may be other disks: in the user's own folder, and where temporary files go."""
    name = folder.absolute().name or "adapter"
    with contextlib.suppress(RuntimeError):  # a user without a folder
        yield _free(Path.home() / "lora_np" / name)
    yield _free(Path(tempfile.gettempdir()) / "lora_np" / name)


@contextlib.contextmanager
def output_directory(options: FinetuneOptions) -> Iterator[Path]:
    """The folder for the results: as asked, or runs/ and the name of the data, with a number if that is taken.

    Inside the block it is this run's own, and can be written to. No other adapter is written over. ValueError if `out`
    is a file or holds an adapter already, FileNotFoundError if there is nothing to resume, BlockingIOError if another
    run is writing there, OSError if nothing can be written there.
    """
    busy: list[Path] = []
    while True:
        folder = chosen_folder(options, busy)
        with contextlib.ExitStack() as claim:
            try:
                claim.enter_context(claimed(folder))
            except BlockingIOError:
                if options.out is not None or options.resume:
                    raise
                busy.append(folder)
                continue
            if chosen_folder(options, busy) == folder:  # still: another run may have ended just now
                yield folder
                return


def chosen_folder(options: FinetuneOptions, busy: list[Path] | None = None) -> Path:
    """The folder for the results. ValueError or FileNotFoundError if it is no good."""
    if options.out is None:
        first = Path("runs") / (Path(options.data).stem if options.data else "prose")
        return _last_with_checkpoint(first) if options.resume else _free(first, busy)
    out = Path(options.out)
    if os.path.exists(out) and not out.is_dir():  # pathlib's `exists` raises OSError where a name is too long for one
        raise ValueError(f"--out {out} is a file; it must be a directory, or a new name")
    if options.resume:
        existing(out / CHECKPOINT)
    elif is_there(out / ADAPTER) and not options.overwrite:
        raise ValueError(f"{out} holds an adapter already: choose another --out, or go on from it with --resume")
    return out


def _numbered(first: Path) -> Iterator[Path]:
    """`first`, then the names with -2, -3, ..."""
    yield first
    number = 1
    while True:
        number += 1
        yield first.with_name(f"{first.name}-{number}")


def _free(first: Path, busy: list[Path] | None = None) -> Path:
    """The first name that holds no adapter and is not busy."""
    return next(path for path in _numbered(first) if not is_there(path / ADAPTER) and path not in (busy or ()))


def _last_with_checkpoint(first: Path) -> Path:
    """The last of the names in a row that hold an adapter, or `first`. FileNotFoundError if it has no checkpoint."""
    taken = first
    for path in _numbered(first):
        if not is_there(path / ADAPTER):
            break
        taken = path
    existing(taken / CHECKPOINT)
    return taken
