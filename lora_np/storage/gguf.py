"""GGUF: llama.cpp's format. Everything is in one file, the tokenizer too, and most weights are quantised in blocks.

    "GGUF" | version u32 | tensors u64 | key-values u64
    key-values: key | type u32 | value          a string: length u64, UTF-8; an array: type u32, length u64, values
    tensors: name | dimensions u32 | each u64, the fastest first | coding u32 | offset u64 from the start of the data
    padding to a multiple of the alignment | data

All numbers are little-endian. A header can lie about every length, so each is compared with the bytes that are left
before anything is allocated or repeated. What the blocks of a coding mean, the gguf package knows.
"""

import functools
import itertools
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from ..extras import require
from .mistaken import instead
from .tensors import BFLOAT16, Coding, Source, StoredTensor, TensorFile, plain
from .versions import StrPath, opened

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_DIMENSIONS = 4
MAX_DEPTH = 4  # of arrays in arrays; the values of known keys have none
MAX_VALUES = 5 * 2**19  # in all arrays together: the largest vocabularies have a million tokens, types and merges

# Types of values by their number: what NumPy calls them (a boolean is a byte, 0 or 1), and two that it has no name for.
_NAMES = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8"}
SCALARS = {kind: np.dtype(name) for kind, name in _NAMES.items()}
BOOL, STRING, ARRAY = 7, 8, 9
COUNTS = {STRING: 2, ARRAY: 16}  # an array in an array takes as long as so many numbers

# The fewest bytes that one of each can take: lengths and numbers without any text or values.
SMALLEST_PAIR = 8 + 4 + 1
SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8

# What the header says of a tensor: its name, its shape in NumPy's order, the number of its coding, and its offset.
Entry = tuple[str, tuple[int, ...], int, int]

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def open_one_gguf(path: StrPath) -> TensorFile:
    """A TensorFile on one GGUF file of version 2 or 3; `metadata` has all its key-values, arrays as lists.

    The shapes are in NumPy's order, the reverse of the file's. FileNotFoundError if there is no file; ValueError with
    its name if it is not a sound one; MissingPackageError if the gguf package, which knows the codings, is not
    installed.
    """
    file = opened(path)
    source = Source(Path(path), file)
    header = _Header(source.path, file)
    tensor_count, pair_count = header.start()
    metadata = header.pairs(pair_count)
    entries = header.tensors(tensor_count)
    return TensorFile(source.path, metadata, _placed(header, source, metadata, entries))


class _Header:
    """Reads a header from its start to its end, never more than the file still has."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = self.left = os.fstat(file.fileno()).st_size
        self.reading = "the beginning"  # what is being read, for messages
        self.values = 0  # in arrays, so far
        self._read = file.read

    def error(self, message: str) -> ValueError:
        """The ValueError to raise."""
        return ValueError(f"{self.path} is not a sound GGUF file: {self.reading[:80]}: {message}")

    def start(self) -> tuple[int, int]:
        """(number of tensors, number of key-values), after the magic word and a version that is known."""
        magic = self.take(4)
        if magic != b"GGUF":
            known = instead(magic + self._read(95))
            raise self.error(known or f"it should be b'GGUF', not {magic!r}")
        version = self.number("<u4")
        if version and version % 2**16 == 0:
            raise self.error("the file is big-endian; only little-endian files can be read")
        if version not in VERSIONS:
            raise self.error(f"version {version} is not known; versions 2 and 3 are")
        return self.number("<u8"), self.number("<u8")

    def pairs(self, count: int) -> dict[str, Any]:
        """The key-values, a dict."""
        self.reading = "the key-values"
        self.need(count, SMALLEST_PAIR)
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.string()
            self.reading = key
            if key in found:
                raise self.error("this key stands twice")
            found[key] = self.value(self.number("<u4"))
            self.reading = f"what follows {key}"
        return found

    def tensors(self, count: int) -> list[Entry]:
        """What the header says of each tensor."""
        self.reading = "the list of tensors"
        self.need(count, SMALLEST_TENSOR)
        found: dict[str, Entry] = {}
        for _ in range(count):
            name = self.string()
            self.reading = f"tensor {name}"
            if name in found:
                raise self.error("this name stands twice")
            found[name] = (name, self.shape(), self.number("<u4"), self.number("<u8"))
            self.reading = f"what follows tensor {name}"
        return list(found.values())

    def shape(self) -> tuple[int, ...]:
        """The dimensions of a tensor, in NumPy's order."""
        count = self.number("<u4")
        if not 1 <= count <= MAX_DIMENSIONS:
            raise self.error(f"1 to {MAX_DIMENSIONS} dimensions are possible, not {count}")
        shape = tuple(reversed(self.numbers("<u8", count)))
        if 0 in shape:
            raise self.error(f"a dimension is 0: {shape}")
        return shape

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of the type with the number `kind`."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(depth + 1)
        return self.scalars(kind, 1)[0]

    def array(self, depth: int) -> list[Any]:
        """An array as a list; `depth` says in how many arrays it is, itself included."""
        if depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} arrays within each other")
        kind, count = self.number("<u4"), self.number("<u8")
        sizes = {STRING: 8, ARRAY: 12}
        self.need(count, sizes.get(kind) or self.scalar(kind).itemsize)
        self.values += count * COUNTS.get(kind, 1)
        if self.values > MAX_VALUES:
            raise self.error(f"more than {MAX_VALUES:,} values in arrays, which take far more memory than the file")
        if kind not in sizes:
            return self.scalars(kind, count)
        return [self.value(kind, depth) for _ in range(count)]

    def scalars(self, kind: int, count: int) -> list[Any]:
        """A list of `count` numbers or booleans of the type with the number `kind`."""
        values = self.numbers(self.scalar(kind), count)
        if kind == BOOL and max(values, default=0) > 1:
            raise self.error(f"a boolean should be 0 or 1, not {max(values)}")
        return list(map(bool, values)) if kind == BOOL else values

    def scalar(self, kind: int) -> np.dtype:
        """What NumPy calls the type with the number `kind`."""
        if kind not in SCALARS:
            raise self.error(f"type {kind} of a value is not known")
        return SCALARS[kind]

    def string(self) -> str:
        """A string: its length, then its bytes."""
        raw = self.take(int.from_bytes(self.take(8), "little"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"a string is not UTF-8: {error}") from None

    def number(self, dtype: DTypeLike) -> Any:
        """One number, as Python has it."""
        return self.numbers(dtype, 1)[0]

    def numbers(self, dtype: DTypeLike, count: int) -> list[Any]:
        """A list of `count` numbers, as Python has them."""
        dtype = np.dtype(dtype)
        self.need(count, dtype.itemsize)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.need(count, 1)
        self.left -= count
        raw = self._read(count)
        if len(raw) < count:
            raise self.error("the file has become shorter while it was read")
        return raw

    def need(self, count: int, size: int) -> None:
        """ValueError unless `count` things of at least `size` bytes each fit into the rest of the file."""
        if count * size > self.left:
            raise self.error(f"{count} x {size} bytes should follow, but only {self.left} are left: is it truncated?")


def _placed(header: _Header, source: Source, metadata: dict[str, Any], entries: list[Entry]) -> list[StoredTensor]:
    """StoredTensors for the entries of a header. Each must be inside the file, aligned, and apart from the others."""
    header.reading = ALIGNMENT_KEY
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise header.error(f"it should be a power of two, not {alignment!r}")
    data_start = -(-(header.size - header.left) // alignment) * alignment
    tensors = [_stored(header, source, alignment, data_start, entry) for entry in entries]
    in_order = sorted(tensors, key=lambda tensor: tensor.start)
    for before, tensor in itertools.pairwise(in_order):
        if tensor.start < before.start + before.size:
            raise header.error(f"tensor {tensor.name} lies over tensor {before.name}")
    return tensors


def _stored(header: _Header, source: Source, alignment: int, data_start: int, entry: Entry) -> StoredTensor:
    """One StoredTensor."""
    name, shape, kind, offset = entry
    header.reading = f"tensor {name}"
    coding = _coding(header, kind)
    if shape[-1] % coding.block:
        raise header.error(f"rows of {shape[-1]} are no whole blocks of {coding.block}, as {coding.name} has them")
    if offset % alignment:
        raise header.error(f"its offset {offset} is not a multiple of {alignment}")
    tensor = StoredTensor(name, source, data_start + offset, shape, coding)
    if tensor.start + tensor.size > header.size:
        raise header.error(f"it should end at byte {tensor.start + tensor.size}, but the file ends at {header.size}")
    return tensor


def _coding(header: _Header, kind: int) -> Coding:
    """The Coding with a number."""
    try:
        return _codings()[kind]
    except KeyError:
        raise header.error(f"coding {kind} is not known to the installed gguf package") from None


@functools.cache
def _codings() -> dict[int, Coding]:
    """{number: Coding} of every coding that the gguf package knows."""
    gguf = require("gguf", "reading a GGUF file", "gguf")
    found: dict[int, Coding] = {}
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name in NUMPY:
            found[int(kind)] = plain(kind.name, NUMPY[kind.name])
        elif kind.name == "BF16":
            found[int(kind)] = BFLOAT16
        else:
            found[int(kind)] = _quantised(kind, block, size)
    return found


def _quantised(kind: Any, block: int, size: int) -> Coding:
    """The Coding of a quantised type; with no `decode` if the package has none, which one block of zeros shows."""
    dequantize = require("gguf.quants", "reading a GGUF file", "gguf").dequantize

    def decode(raw: np.ndarray) -> np.ndarray:
        return dequantize(raw, kind)

    try:
        with np.errstate(all="ignore"):
            decode(np.zeros(size, np.uint8))
    except NotImplementedError:
        return Coding(kind.name, None, block, size)
    return Coding(kind.name, np.dtype(np.float32), block, size, decode)
