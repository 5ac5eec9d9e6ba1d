"""Several files that are replaced as one: what happens if the process is killed between the first and the last.

A save first writes all of its files under temporary names. Then it writes the journal, a small file in the same
folder that says which temporary file takes which name: from that moment, and not before, the new files count. Then they
take their names, and the journal goes. If the process is killed in between, the journal is still there: readers look
into it and take the new files from where they are, and the next save finishes what it says.

Other libraries do not read the journal. So that they never find files of two saves together, all files but the first
(the weights) go away before the first is replaced, and the second (the configuration) comes last: where it is, the rest
is too. This takes some ten microseconds. A kill within them leaves others a folder without a configuration.

A journal is no order from anybody: its names are of files in its own folder. It counts only if each file is as it says,
the old one or the new one. If another program has written since, it does not, and the next save removes it.
"""

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath

NAME = ".lora_np-saving"
TEMPORARY = ".lora_np-tmp"  # how the names of temporary files end
ENDS = 2**16  # bytes from either end of a file that are compared
LONGEST = 2**22  # bytes; no journal is longer


@dataclass(frozen=True)
class Change:
    """A file that a save replaces: the temporary file's name, and fingerprints of what was there and what comes."""

    temporary: str
    before: str | None
    after: str | None


@dataclass
class Journal:
    """What a save does in `folder`. changes: {name: Change}, in the order of writing; removed: {name: fingerprint}."""

    folder: Path
    changes: dict[str, Change] = field(default_factory=dict)
    removed: dict[str, str | None] = field(default_factory=dict)

    def temporary(self, name: str) -> Path:
        """Where the new file is until it takes its name."""
        return target(self.folder, name).with_name(self.changes[name].temporary)

    def find(self, name: str) -> Path:
        """Where the file `name` is, or is not, once this is carried out."""
        if name in self.removed:
            return self.folder / NAME / name  # nowhere
        if name in self.changes and os.path.isfile(self.temporary(name)):
            return self.temporary(name)
        return self.folder / name

    def counts(self) -> bool:
        """Is each file the old or the new one? If not, another program has written since."""
        for name, change in self.changes.items():
            new = fingerprint(self.temporary(name))  # before the other: it may take its name just now
            now = fingerprint(target(self.folder, name))
            if new is None and now != change.after:
                return False
            if new is not None and (new != change.after or now not in (change.before, change.after, None)):
                return False
        return all(fingerprint(self.folder / name) in (before, None) for name, before in self.removed.items())

    def encode(self) -> bytes:
        """The journal's text."""
        changes = {name: asdict(change) for name, change in self.changes.items()}
        return json.dumps({"changes": changes, "removed": self.removed}, indent=1).encode()

    def carry_out(self, clear: bool = False) -> None:
        """Let the new files take their names; again is no harm.

        clear: take away what other libraries must not find in between. Only the save itself may do that, once.
        """
        names = list(self.changes)
        for name in names[1:] if clear else ():
            _unlink(target(self.folder, name))
        for name in names[:1] + names[:0:-1]:
            with contextlib.suppress(FileNotFoundError):  # it has its name already
                os.replace(self.temporary(name), target(self.folder, name))
        for name in self.removed:
            _unlink(self.folder / name)
        for folder in {target(self.folder, name).parent for name in self.changes} | {self.folder}:
            sync_folder(folder)

    def close(self) -> None:
        """Remove the journal: all is done."""
        _unlink(self.folder / NAME)


def target(folder: Path, name: str) -> Path:
    """The file that `name` means: where it is a link, what the link leads to, so that it stays one."""
    return Path(os.path.realpath(folder / name))


def read(folder: Path) -> Journal | None:
    """The journal in a folder, if there is one that counts."""
    journal = _decoded(folder)
    return journal if journal is not None and journal.counts() else None


def finish(folder: Path) -> None:
    """Do what a killed save has left to be done; without a journal, nothing."""
    if not os.path.lexists(folder / NAME):
        return
    if (journal := read(folder)) is not None:
        journal.carry_out()
    _unlink(folder / NAME)


def _decoded(folder: Path) -> Journal | None:
    path = folder / NAME
    try:
        if not os.path.isfile(path):  # a FIFO would be waited for
            return None
        with open(path, "rb") as file:
            value = json.loads(file.read(LONGEST))
        changes = {_plain(name): Change(**change) for name, change in value["changes"].items()}
        removed = {_plain(name): before for name, before in value["removed"].items()}
        if not all(_plain(change.temporary).endswith(TEMPORARY) for change in changes.values()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Journal(folder, changes, removed)


def _plain(name: str) -> str:
    """`name`, if it names a file in the folder itself, here and on Windows; ValueError if not."""
    if name in ("", "..") or PureWindowsPath(name).name != name or "\0" in name:
        raise ValueError(name)
    return name


def fingerprint(path: Path) -> str | None:
    """A hash of a file's size and its first and last bytes; None if there is no such file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "no file"
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(b"%d " % size + file.read(ENDS))
            file.seek(max(0, size - ENDS))
            digest.update(file.read(ENDS))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return "not readable"
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Have the folder's names on the disk.

    fsync of a file is for what is in it. Its name stands in the folder: without this, a power cut after a save could
    bring the old file back, or a file without its journal. Where folders cannot be synced (Windows, some network
    disks) the system decides when.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
