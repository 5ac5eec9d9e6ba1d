"""A folder of texts as training data."""

import os
from os import PathLike
from pathlib import Path

from .protocols import Documents
from .records import ENDINGS, decoded

LARGEST = 1 << 30  # bytes of a text


def load_folder(path: str | PathLike[str]) -> tuple[Documents, list[str]]:
    """({relative path: text}, what was left out) of all files in a folder and below it, in the order of their names.

    Left out are files that are no UTF-8 text, hidden ones, empty ones, and those that hold examples (.jsonl, .csv).
    ValueError if nothing is left.
    """
    root, texts, others = Path(path), dict[str, str](), list[str]()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(folder) / name
            shown = file.relative_to(root).as_posix()
            text = _text(file)
            if text is None:
                others.append(shown)
            elif text.strip():
                texts[shown] = text
    if not texts:
        found = f": what is there, {', '.join(others[:5])}, is no UTF-8 text" if others else ""
        raise ValueError(f"the folder {root} has no text to learn from{found} (of examples, give the file)")
    return texts, others


def _text(file: Path) -> str | None:
    """The text of a file, or None if it is none."""
    if file.suffix.lower() in ENDINGS or not file.is_file() or file.stat().st_size > LARGEST:
        return None
    try:
        return decoded(file.read_bytes(), str(file)).replace("\r\n", "\n").replace("\r", "\n")
    except ValueError:
        return None


def hold_out_ends(documents: Documents, held_out: float = 0.1) -> dict[str, Documents]:
    """{"train", "test"}: the end of each text is held out, from the beginning of a line."""
    parts: dict[str, Documents] = {"train": {}, "test": {}}
    for name, text in documents.items():
        cut = int(len(text) * (1 - held_out))
        cut = text.rfind("\n", 0, cut) + 1 or cut
        parts["train"][name], parts["test"][name] = text[:cut], text[cut:]
    return parts
