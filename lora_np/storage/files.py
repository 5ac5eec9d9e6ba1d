"""Writing so that an interruption loses nothing, and text and JSON with clear errors.

Every write goes to a temporary file beside its target and then takes the target's name in one step, so a reader
finds the old file or the new one, never half of either.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

StrPath = str | os.PathLike[str]

MAX_VALUES = 2**20  # in a JSON file: four times the largest vocabularies


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it replaces `path` at once, otherwise it is deleted.

    The folder of `path` is made if it is not there. A file that is replaced keeps its permissions.
    """
    import tempfile  # here, because it brings the modules for every kind of archive

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    """The permissions that this process withholds from new files (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: StrPath, text: str) -> None:
    """Write `text` (UTF-8) to `path`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: StrPath, value: dict[str, Any]) -> None:
    """Write a dict as JSON: indent 2, sorted keys, as PEFT and Transformers do.

    Unlike there, dicts inside it keep their order: of a LoraConfig's patterns the first that matches counts.
    """
    write_text(path, json.dumps(dict(sorted(value.items())), indent=2) + "\n")


def read_json(path: StrPath) -> dict[str, Any]:
    """The object (a dict) in a JSON file.

    FileNotFoundError if there is no file, ValueError with its name if it does not hold an object.
    """
    path = existing(path)
    try:
        text = path.read_text(encoding="utf-8")
        if text.count(",") > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values, which take far more memory than the file")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of 5,000 digits; nested too deep
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def existing(path: StrPath) -> Path:
    """`path` as a Path, if it is a file; FileNotFoundError in one sentence if not."""
    path = Path(path)
    if not path.is_file():
        other = "is no file that can be read" if os.path.lexists(path) else "does not exist"  # a pipe, a broken link
        raise FileNotFoundError(f"{path} {'is a directory, not a file' if path.is_dir() else other}")
    return path


def present(path: StrPath) -> bool:
    """Is this file there? One that may be missing may not be anything else, as a directory: then as `existing`."""
    return os.path.lexists(path) and existing(path) is not None
