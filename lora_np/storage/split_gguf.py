"""GGUF files that llama.cpp's gguf-split cut into several: NAME-00001-of-00005.gguf, ..., each with some tensors.

Each part is a GGUF file of its own that says which it is: split.no (from 0), split.count and split.tensors.count. The
first has all the other key-values.
"""

import re
from pathlib import Path

from .gguf import open_one_gguf
from .tensors import TensorFile
from .versions import StrPath

COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"


def open_gguf(path: StrPath) -> TensorFile:
    """A TensorFile on a GGUF file, or, given the first of the parts of one that was split, on all parts together.

    FileNotFoundError if there is no file or a part is missing; ValueError with the file's name if one is not sound, or
    if the parts do not belong together; MissingPackageError if the gguf package is not installed.
    """
    file = open_one_gguf(path)
    count = file.metadata.get(COUNT, 1)
    if type(count) is not int:
        raise ValueError(f"{path}: {COUNT} should be a whole number, not {count!r}")
    return file if count < 2 else _together(file, Path(path), count)


def _together(first, path, count):
    """The tensors of all parts, with the metadata of the first."""
    named = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name, re.DOTALL)
    if named is None or int(named[3]) != count:
        raise ValueError(f"{path} is one of {count} parts, and should be called NAME-00001-of-{count:05d}.gguf")
    names = [f"{named[1]}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    if first.metadata.get(NUMBER) != 0 or path.name != names[0]:
        raise ValueError(f"{path} is not the first of its {count} parts: give {names[0]}")
    tensors = dict(first.tensors)
    for i, name in enumerate(names[1:], 1):
        part = _part(path.parent / name, path, i, count)
        if double := tensors.keys() & part.tensors.keys():
            raise ValueError(f"{part.path}: an earlier part has {min(double)}, too")
        tensors |= part.tensors
    total = first.metadata.get(TENSORS, len(tensors))
    if total != len(tensors):
        raise ValueError(f"{path}: {TENSORS} is {total}, but the {count} parts have {len(tensors)} tensors")
    return TensorFile(path, first.metadata, tensors.values())


def _part(path, first, number, count):
    """A later part, if it is the one that it should be."""
    if not path.exists():
        raise FileNotFoundError(f"{first} is the first of {count} parts, and {path.name} is not beside it")
    part = open_one_gguf(path)
    i, of = part.metadata.get(NUMBER), part.metadata.get(COUNT)
    if (i, of) != (number, count):
        raise ValueError(f"{path}: {NUMBER} and {COUNT} should be {number} and {count}, not {i!r} and {of!r}")
    return part
