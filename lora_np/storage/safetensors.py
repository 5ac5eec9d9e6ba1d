"""safetensors: a JSON header that says where each tensor lies, then the numbers as they are in memory.

    8 bytes: N, little-endian | N bytes: {"name": {"dtype", "shape", "data_offsets": [start, end]}, ...} | data

The header is checked in `safetensors_header.py`, and where the safetensors library is installed, by it too. The library
does not write here: its `save_file` makes temporary files of its own, which a kill leaves behind.
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np

from ..autograd.devices import to_numpy
from ..autograd.float_types import bfloat16, is_bfloat16
from .files import read_json
from .mistaken import instead
from .safetensors_header import METADATA, parse_header
from .saving import StrPath, replacing
from .tensors import BFLOAT16, Coding, Source, StoredTensor, TensorFile, plain
from .versions import ReplacedMeanwhile, check_unmoved, in_one_version, is_there, opened

try:
    from safetensors import SafetensorError, safe_open
except ModuleNotFoundError:  # in a browser: it is written in Rust
    safe_open = None

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
_NUMPY |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}
MOST_TENSORS = 2**15  # in one file: one tensor takes longer to look up than to read where it is small
LONGEST_HEADER = 100_000_000  # bytes, as the library has it
CODINGS = {"BF16": BFLOAT16} | {name: plain(name, dtype) for name, dtype in _NUMPY.items()}


def write_safetensors(path: StrPath, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays, of NumPy or CuPy, to a safetensors file.

    metadata: what else the header says, strings only; "format": "pt" is added, as PEFT writes it.
    ValueError for a type that the format does not have.
    """
    arrays = {name: array if hasattr(array, "dtype") else np.asarray(array) for name, array in arrays.items()}
    entries, end, names = {}, 0, sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # so aligned
    for name in names:
        array = arrays[name]
        entries[name] = {
            "dtype": _code(name, array.dtype),
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    header = json.dumps(
        {METADATA: {"format": "pt", **(metadata or {})}, **entries}, ensure_ascii=False, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name in names:
            array = to_numpy(arrays[name])
            array = array.view(np.uint16) if is_bfloat16(array.dtype) else array
            little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            file.write(memoryview(little.reshape(-1)).cast("B") if little.size else b"")


def _code(name: str, dtype: np.dtype) -> str:
    """What the format calls a NumPy type, or bfloat16."""
    if is_bfloat16(dtype):
        return "BF16"
    for code, known in _NUMPY.items():
        if dtype.newbyteorder("<") == np.dtype(known):
            return code
    raise ValueError(f"tensor {name} is of type {dtype}, which safetensors does not have")


def read_safetensors(path: StrPath, as_stored: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({name: array}, metadata) of a safetensors file; bfloat16 becomes float32, other types stay as they are.

    as_stored: bfloat16 stays, too, for which the package ml_dtypes has to be there.
    FileNotFoundError if there is no file; ValueError with its name if it is not a sound one, or holds a type that
    NumPy does not have.
    """
    with open_safetensors(path) as file:
        arrays = {name: file.read(name, dtype) for name, dtype in file.dtypes.items()}
        narrow = [name for name, tensor in file.tensors.items() if as_stored and tensor.coding is BFLOAT16]
        return arrays | {name: arrays[name].astype(bfloat16()) for name in narrow}, file.metadata


def open_safetensors(path: StrPath) -> TensorFile:
    """A TensorFile on one safetensors file.

    FileNotFoundError if there is no file; ValueError with its name if it is not a sound one.
    """
    path = Path(path)
    return in_one_version(path.parent, lambda: _opened(path))


def _opened(path: Path) -> TensorFile:
    """`open_safetensors`. The library opens the file by its name, so it must be seen that this is the same one."""
    file = opened(path)
    source = Source(path, file)
    try:
        raw, data_start, size = _header(file)
        _ask_library(file.name)
        header = parse_header(raw, size)
    except FileNotFoundError:
        raise ReplacedMeanwhile from None
    except (OSError, ValueError, RecursionError) as error:
        check_unmoved(file)
        file.seek(0)
        raise ValueError(f"{path} is not a readable safetensors file: {instead(file.read(99)) or error}") from None
    check_unmoved(file)
    metadata = header.pop(METADATA, None) or {}
    tensors = [_stored(name, source, entry, data_start) for name, entry in header.items()]
    return TensorFile(path, metadata, tensors)


def _header(file: BinaryIO) -> tuple[bytes, int, int]:
    """The header as it is in the file, where the data start, and how many bytes they are.

    ValueError if the header does not fit into the file, or lists too many tensors.
    """
    size, whole = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if whole < 8 or size > min(whole - 8, LONGEST_HEADER):
        raise ValueError(f"it should begin with the length of a header, but has {whole} bytes and a header of {size}")
    raw = file.read(size)
    if raw.count(b"{") > MOST_TENSORS + 2:  # one each, one of the metadata, one around all
        raise ValueError(f"more than {MOST_TENSORS:,} tensors in one file: put them into several (shards)")
    return raw, 8 + size, whole - 8 - size


def _ask_library(name: str) -> None:
    """ValueError if the safetensors library is installed and does not read the file of this name."""
    if safe_open is None:
        return
    try:
        with safe_open(name, framework="np"):
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _stored(name: str, source: Source, entry: dict[str, Any], data_start: int) -> StoredTensor:
    coding = CODINGS.get(entry["dtype"], Coding(entry["dtype"]))
    return StoredTensor(name, source, data_start + entry["data_offsets"][0], tuple(entry["shape"]), coding)


def open_sharded_safetensors(index_path: StrPath) -> TensorFile:
    """A TensorFile on the shards that a model.safetensors.index.json lists: {"weight_map": {name: file}}.

    The shards lie beside the index. `metadata` is that of the index. FileNotFoundError if a shard is missing;
    ValueError if a file is damaged, a shard lacks a tensor, or a file's name leads to another folder.
    """
    index_path = Path(index_path)
    return in_one_version(index_path.parent, lambda: _opened_shards(index_path))


def _opened_shards(index_path: Path) -> TensorFile:
    index = read_json(index_path)
    weight_map, metadata = index.get("weight_map"), index.get("metadata", {})
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        raise ValueError(f'{index_path} should hold {{"weight_map": {{tensor: file, ...}}, "metadata": {{...}}}}')
    names: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        names.setdefault(_plain_name(index_path, name, file), []).append(name)
    tensors = [tensor for file, wanted in names.items() for tensor in _from_shard(index_path, file, wanted)]
    return TensorFile(index_path, metadata, tensors)


def _plain_name(index_path: Path, name: str, file: Any) -> str:
    """`file` as it is, if it names a file beside the index, here and on Windows."""
    if not isinstance(file, str) or file in ("", "..") or PureWindowsPath(file).name != file:
        raise ValueError(f"{index_path}: tensor {name} should lie in a file beside the index, not in {file!r}")
    return file


def _from_shard(index_path: Path, file: str, names: Iterable[str]) -> list[StoredTensor]:
    """The tensors `names` of the shard `file`."""
    path = index_path.parent / file
    try:
        found = is_there(path)
    except FileNotFoundError:  # a folder, a pipe
        found = False
    if not found:
        raise FileNotFoundError(f"{index_path} lists {file}, but there is no such file beside it")
    shard = open_safetensors(path)
    missing = [name for name in names if name not in shard.shapes]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing[:3])}, which {index_path.name} says it holds")
    return [shard.tensors[name] for name in names]
