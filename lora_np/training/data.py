"""Text as training data: documents, split by document, cut into windows.

Two corpora come with every Python: its standard library's source, on which the shipped base model was pretrained,
and the English reference pages of `pydoc_data.topics`, to which the examples adapt it. Both differ a little
between Python versions; `fingerprint` tells which text a run saw.
"""

import hashlib
import os
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from ..aliases import moved_names
from ..expect import A_TOKENIZER, expect, expect_method, expect_path, expect_whole
from ..models.output import IGNORED as IGNORED  # it was defined here before
from ..storage import existing
from .folders import load_folder
from .protocols import Array, Batch, Documents, Tokenizer
from .records import decoded, holds_examples

__getattr__ = moved_names(__name__)

NOT_SOURCE = {"__pycache__", "encodings", "idle_test", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}


def python_documents(root: str | PathLike[str] | None = None) -> Documents:
    """{relative path: source text} of the Python files under `root`, a folder or a zip archive, by default the standard
    library's.

    Tests, character tables, the old 2to3 tool and the reference prose (which must stay unseen) are left out.
    """
    root = _standard_library() if root is None else Path(root)
    sources = dict(sorted(_sources(root).items()))
    if not sources:
        raise FileNotFoundError(f"no Python source files under {root}")
    texts = {path.as_posix(): _lines(raw.decode("utf-8", errors="replace")) for path, raw in sources.items()}
    return {name: text for name, text in texts.items() if text.strip()}


def _standard_library() -> Path:
    """Where the standard library's source is: a folder, or an archive, as in a browser."""
    place = Path(hashlib.__file__).parent  # os would not do: it is frozen into Python
    return place if zipfile.is_zipfile(place) else Path(sysconfig.get_paths()["stdlib"])


def _sources(root: Path) -> dict[PurePath, bytes]:
    """{relative path: content} of the Python files under a folder or in an archive."""
    if not zipfile.is_zipfile(root):
        found = (path.relative_to(root) for path in root.rglob("*.py"))
        return {path: (root / path).read_bytes() for path in found if _is_source(path)}
    with zipfile.ZipFile(root) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py") and _is_source(PurePosixPath(name))]
        return {PurePosixPath(name): archive.read(name) for name in names}


def _is_source(path: PurePath) -> bool:
    return not NOT_SOURCE & set(path.parts)


def _lines(text: str) -> str:
    """The text with its line ends as \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def prose_documents() -> Documents:
    """{topic: text}: the reference pages that Python's `help()` shows, about 460 KB of English prose."""
    from pydoc_data.topics import topics

    return dict(sorted(topics.items()))


def load_text(path: str | PathLike[str]) -> Documents:
    """{name: text} of the user's own file: its paragraphs, joined to documents of about 2,000 characters. Of a folder,
    the texts in it (see `load_folder`).

    FileNotFoundError if there is no such file; ValueError if it is empty, not UTF-8 text, or holds examples.
    """
    expect_path(path, "path", "the path of a text file")
    if os.path.isdir(path):
        return load_folder(path)[0]
    file = existing(path)
    text = _lines(decoded(file.read_bytes(), str(file)))
    if holds_examples(file):
        raise ValueError(f"{file} holds examples, not running text: load_examples reads it")
    if not text.strip():
        raise ValueError(f"{file} is empty: there is nothing to learn from it")
    documents, current = [], ""
    for paragraph in text.split("\n\n"):
        current += paragraph + "\n\n"
        if len(current) >= 2000:
            documents.append(current)
            current = ""
    documents += [current] if current.strip() else []
    return {f"{file.name}#{i}": document for i, document in enumerate(documents)}


def fingerprint(documents: Documents) -> str:
    """The SHA-256 of all names and texts, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(documents):
        for part in (name, documents[name]):
            encoded = part.encode("utf-8", errors="replace")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def hashed_fraction(name: str) -> float:
    """A number in [0, 1) that follows from a name alone; over many names, all numbers are equally likely."""
    digest = hashlib.sha256(name.encode("utf-8", errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


def split_documents(documents: Documents, held_out: float = 0.1) -> dict[str, Documents]:
    """{"train", "validation", "test"}: whole documents, each in the part that a hash of its name says.

    A document is in one part only, so that no window of the held-out parts has been trained on. In which one does not
    depend on the other documents. Validation and test get about the fraction `held_out` each.
    """
    parts: dict[str, Documents] = {"train": {}, "validation": {}, "test": {}}
    for name, text in documents.items():
        fraction = hashed_fraction(name)
        part = "test" if fraction < held_out else "validation" if fraction < 2 * held_out else "train"
        parts[part][name] = text
    return parts


def hold_out_last(documents: Documents, held_out: float = 0.1) -> dict[str, Documents]:
    """{"train", "test"}: the end of the text is held out, from the beginning of a line; one document in each part."""
    name, text = " ".join(documents), "".join(documents.values())
    cut = int(len(text) * (1 - held_out))
    cut = text.rfind("\n", 0, cut) + 1 or cut
    return {"train": {name: text[:cut]}, "test": {name: text[cut:]}}


def ended(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The ids of a text with the end token behind, if there is one: once, also where the tokenizer puts it there."""
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


class TextData:
    """The tokens of some documents, one after another, each with the end token (if there is one), cut into windows.

    batch(seed, step)  {"input_ids", "labels"}, random windows (B, T) for training: the same numbers for the same seed
                       and step, so a run that is resumed sees what it would have seen. The labels are the ids.
    windows()          all windows (n, T), one after another
    batches(size)      the same, so many at a time: what `evaluate` reads
    """

    def __init__(
        self, documents: Documents, tokenizer: Tokenizer, length: int, batch_size: int, name: str = "the data"
    ) -> None:
        expect(documents, Mapping, "documents", "a dict {name: text}")
        for title, text in documents.items():
            expect(text, str, f"documents[{title!r}]", "a text")
        expect_method(tokenizer, "encode", "tokenizer", A_TOKENIZER)
        expect_whole(batch_size, "batch_size")
        expect_whole(length, "length")
        ids = [token for text in documents.values() for token in ended(tokenizer.encode(text), tokenizer)]
        if len(ids) < length:
            raise ValueError(
                f"{name} has {len(ids):,} tokens, fewer than one window of {length}: use more text or a shorter context"
            )
        self.tokens = np.array(ids, dtype=np.uint16 if max(ids) < 1 << 16 else np.int64)
        self.length, self.batch_size, self.rows = length, batch_size, len(ids) // length

    @property
    def longest(self) -> int:
        """The tokens of a row, as of data with rows of several lengths."""
        return self.length

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rows:,} windows of {self.length} tokens, in batches of {self.batch_size})"

    def batch(self, seed: int, step: int) -> Batch:
        rng = np.random.default_rng((seed, step))
        starts = rng.integers(0, len(self.tokens) - self.length + 1, self.batch_size)
        ids = self.tokens[starts[:, None] + np.arange(self.length)].astype(np.int64)
        return {"input_ids": ids, "labels": ids}

    def windows(self) -> Array:
        n = len(self.tokens) // self.length
        return self.tokens[: n * self.length].reshape(n, self.length).astype(np.int64)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        windows = self.windows()
        for start in range(0, len(windows), batch_size):
            ids = windows[start : start + batch_size]
            yield {"input_ids": ids, "labels": ids}
