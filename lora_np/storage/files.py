"""Writing so that an interruption loses nothing, and text and JSON with clear errors.

Every write goes to a temporary file beside its target and then takes the target's name in one step, so a reader
finds the old file or the new one, never half of either.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path; when the block ends well it replaces `path` at once, otherwise it is deleted."""
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


def _umask():
    """The permissions that this process withholds from new files (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text):
    """Write `text` (UTF-8) to `path`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write a dict as JSON: indent 2, sorted keys, as PEFT and Transformers do.

    Dicts inside it keep their order, which they do not there: of a LoraConfig's patterns the first match counts.
    """
    write_text(path, json.dumps(dict(sorted(value.items())), indent=2) + "\n")


def read_json(path):
    """The object (a dict) in a JSON file. FileNotFoundError or ValueError, with the file's name, if there is none."""
    path = existing(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5,000 digits; nested too deep
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def existing(path):
    """`path` as a Path, if there is a file; FileNotFoundError in one sentence if not."""
    path = Path(path)
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}")
    return path
