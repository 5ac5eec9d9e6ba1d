"""Tensors in a file: where each one lies, how its numbers are coded, and reading one without the others.

A model's weights fill most of the memory, so they should not be there twice. A TensorFile knows only the file's
header; each tensor goes from the file straight into the array that keeps it, in pieces of CHUNK numbers. The pieces
are read, not memory-mapped: mapped pages count as used memory too, and if the file becomes shorter while it is mapped,
the process is killed.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import DTypeLike

CHUNK = 2**16  # numbers per piece: a multiple of every block, and far below 8 MB while it is decoded
FLOATS = ("float16", "float32", "float64", "bfloat16")
MAX_DIMENSIONS = 32  # NumPy has 64 and older versions 32

Decode = Callable[[np.ndarray], np.ndarray]
Index = tuple[int | slice | EllipsisType, ...]


@dataclass(frozen=True)
class Coding:
    """How numbers are stored: every `block` of them in `size` bytes, which `decode` turns into a NumPy array.

    decode: bytes (n·size,) as uint8 -> numbers (n·block,) of `dtype`. It is None where only the coding's name is known.
    """

    name: str
    dtype: np.dtype | None = None
    block: int = 1
    size: int = 1
    decode: Decode | None = None


def plain(name: str, dtype: DTypeLike) -> Coding:
    """The coding of numbers that lie in the file as NumPy has them in memory."""
    in_file = np.dtype(dtype)
    return Coding(name, in_file.newbyteorder("="), 1, in_file.itemsize, lambda raw: raw.view(in_file))


def bfloat16(raw: np.ndarray) -> np.ndarray:
    """float32 from the bytes of bfloat16, which is its upper half: sign, 8 bits of exponent, 7 of mantissa."""
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


BFLOAT16 = Coding("BF16", np.dtype("float32"), 1, 2, bfloat16)


class Source:
    """A file that stays open as long as tensors are read from it: if it is replaced meanwhile, they are still of one.

    path: what it was called; file: the open file, which is the Source's to close
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self._lock = threading.Lock()  # there is one place in the file to read at
        self._stamp = self._now()

    @contextlib.contextmanager
    def at(self, start: int) -> Iterator[BinaryIO]:
        """The file, to be read from byte `start` on. ValueError if it is closed, or was changed since it was opened."""
        with self._lock:
            if self._file.closed:
                raise ValueError(f"{self.path} is closed: open it again")
            self._file.seek(start)
            yield self._file
            if self._now() != self._stamp:
                raise ValueError(f"{self.path} was written to while it was read: read it again")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    __del__ = close


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: from byte `start` on, row after row, in one coding."""

    name: str
    source: Source
    start: int
    shape: tuple[int, ...]
    coding: Coding

    @property
    def path(self) -> Path:
        """What the file is called."""
        return self.source.path

    @property
    def size(self) -> int:
        """How many bytes it takes in the file."""
        return math.prod(self.shape) // self.coding.block * self.coding.size

    def check(self) -> "StoredTensor":
        """Return the tensor itself. ValueError if NumPy cannot make an array of its shape."""
        limit = 2**63 // 8  # no number is larger than 8 bytes; a zero elsewhere in the shape does not help
        if len(self.shape) > MAX_DIMENSIONS or math.prod(filter(None, self.shape)) >= limit:
            raise ValueError(f"{self.path}: the shape of tensor {self.name}, {_short(self.shape)}, is too large")
        return self

    def fill(self, out: np.ndarray) -> None:
        """Decode the tensor into `out`, an array of its shape, piece by piece.

        ValueError if its coding is not known here or the file was changed.
        """
        if self.coding.decode is None:
            raise ValueError(
                f"{self.path}: tensor {self.name} is stored as {self.coding.name}, which cannot be dequantised here"
            )
        with self.source.at(self.start) as file:
            for index in pieces(self.shape):
                part = out[index]
                values = self._next(file, part.size, self.coding.decode).reshape(part.shape)
                with np.errstate(invalid="ignore"):  # a signalling NaN; too large for `out` is worth NumPy's warning
                    part[...] = values

    def _next(self, file: BinaryIO, count: int, decode: Decode) -> np.ndarray:
        """The next `count` numbers of an open file."""
        size = count // self.coding.block * self.coding.size
        raw = file.read(size)
        if len(raw) < size:
            raise ValueError(f"{self.path} ended within tensor {self.name}: it has become shorter since it was opened")
        with np.errstate(all="ignore"):  # a block with an infinite scale is NaN: that is what the file says
            return decode(np.frombuffer(raw, np.uint8))


def pieces(shape: tuple[int, ...], chunk: int = CHUNK, index: tuple[int, ...] = ()) -> Iterator[Index]:
    """Indices that cut an array of `shape` into pieces of at most `chunk` elements, in the order of the rows.

    A piece is some whole rows, or a part of one row that begins at a multiple of `chunk`, so that no block is cut.
    index: where `shape` lies in a larger array, put before each index.
    """
    inside = math.prod(shape[1:])
    if not shape or math.prod(shape) <= chunk:
        yield (*index, ...)
    elif inside > chunk:
        for i in range(shape[0]):
            yield from pieces(shape[1:], chunk, (*index, i))
    else:
        step = chunk // inside
        for i in range(0, shape[0], step):
            yield (*index, slice(i, i + step), ...)


class TensorFile:
    """Named tensors that stay in their file (or in the shards of one) until each is read.

    The files are open until `close`, the end of a `with` block, or until nobody holds the TensorFile any more.

    path: the file, or the index of the shards
    tensors: {name: StoredTensor}, in the order of the header
    metadata: what else the file says, a dict
    shapes: {name: shape}, in NumPy's order, rows first
    dtypes: {name: NumPy type of the decoded numbers}: float32 for bfloat16 and for everything quantised; None for
        what cannot be read here
    """

    def __init__(self, path: Path, metadata: dict[str, Any], tensors: Iterable[StoredTensor]) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = {tensor.name: tensor.check() for tensor in tensors}
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        self.dtypes = {name: tensor.coding.dtype for name, tensor in self.tensors.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files. What was read stays."""
        for tensor in self.tensors.values():
            tensor.source.close()

    def read(self, name: str, dtype: DTypeLike | None = None) -> np.ndarray:
        """A new array with a tensor's values, of type `dtype`; by default float32, but integers and booleans stay so.

        KeyError if there is no such tensor; ValueError if its coding is not known or the file has become shorter.
        """
        tensor = self._tensor(name)
        if dtype is None:
            dtype = tensor.coding.dtype if self._is_integer(name) else np.float32
        out = np.empty(tensor.shape, dtype)
        tensor.fill(out)
        return out

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Fill `out`, a float array with the tensor's shape and any strides, with its values.

        Errors: as `read`; TypeError if `out` is not a float array; ValueError if it has another shape, or if the
        tensor holds integers or booleans, which are not weights.
        """
        tensor = self._tensor(name)
        if not isinstance(out, np.ndarray) or out.dtype.name not in FLOATS:
            found = getattr(out, "dtype", type(out).__name__)
            raise TypeError(f"out must be a NumPy array of {', '.join(FLOATS)}, not {found}")
        if out.shape != tensor.shape:
            raise ValueError(f"{self.path}: tensor {name} has shape {tensor.shape}, out has {out.shape}")
        if self._is_integer(name):
            raise ValueError(f"{self.path}: tensor {name} holds {tensor.coding.dtype}, not floats; read() gives it")
        tensor.fill(out)

    def _is_integer(self, name: str) -> bool:
        dtype = self.dtypes[name]
        return dtype is not None and dtype.kind != "f"

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            import difflib

            close = difflib.get_close_matches(name, list(self.tensors), n=3)
            hint = f"; close: {', '.join(close)}" if close else f"; it holds {len(self.tensors)} others"
            raise KeyError(f"{self.path} has no tensor {name!r}{hint}")
        return self.tensors[name]


def _short(shape: tuple[int, ...]) -> str:
    """A shape for a message: one that is wrong may be very long."""
    return str(tuple(shape)) if len(shape) <= 8 else f"({', '.join(map(str, shape[:8]))}, ...)"
