"""Text and JSON as files, with clear errors."""

import io
import json
from pathlib import Path
from typing import Any

from .mistaken import instead
from .saving import StrPath, replacing
from .versions import opened

MAX_VALUES = 2**20  # in a JSON file: four times the largest vocabularies


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
    with opened(path) as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8")
        if text.count(",") > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values, which take far more memory than the file")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of 5,000 digits; nested too deep
        raise ValueError(f"{path} is not valid JSON: {instead(raw[:99]) or error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def read_text(path: StrPath) -> str:
    """The text (UTF-8) in a file, its line ends as \\n. FileNotFoundError if there is no file, ValueError with its name
    if it is not UTF-8."""
    with opened(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        try:
            return text.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text in UTF-8: {error}") from None


def existing(path: StrPath) -> Path:
    """`path` as a Path, if it is a file; FileNotFoundError in one sentence if not."""
    opened(path).close()
    return Path(path)
