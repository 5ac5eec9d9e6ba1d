"""safetensors: a JSON header that says where each tensor lies, then the numbers as they are in memory.

    8 bytes: N, little-endian | N bytes: {"name": {"dtype", "shape", "data_offsets": [start, end]}, ...} | data

The safetensors library checks the header: sizes that fit, no overlap, no gap, nothing outside the file.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..autograd.devices import to_numpy
from .files import StrPath, existing, read_json, replacing
from .tensors import BFLOAT16, Coding, StoredTensor, TensorFile, plain

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
_NUMPY |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}
CODINGS = {"BF16": BFLOAT16} | {name: plain(name, dtype) for name, dtype in _NUMPY.items()}


def write_safetensors(path: StrPath, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays, of NumPy or CuPy, to a safetensors file.

    metadata: what else the header says, strings only; "format": "pt" is added, as PEFT writes it.
    """
    arrays = {name: np.asarray(to_numpy(array), order="C") for name, array in arrays.items()}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={"format": "pt", **(metadata or {})})


def read_safetensors(path: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({name: array}, metadata) of a safetensors file; bfloat16 becomes float32, other types stay as they are.

    FileNotFoundError if there is no file; ValueError with its name if it is not a sound one, or holds a type that
    NumPy does not have.
    """
    file = open_safetensors(path)
    return {name: file.read(name, dtype) for name, dtype in file.dtypes.items()}, file.metadata


def open_safetensors(path: StrPath) -> TensorFile:
    """A TensorFile on one safetensors file.

    FileNotFoundError if there is no file; ValueError with its name if it is not a sound one.
    """
    path = existing(path)
    try:
        with safe_open(path, framework="np"):
            header, data_start = _header(path)
    except (SafetensorError, OSError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    metadata = header.pop("__metadata__", None) or {}
    tensors = [_stored(name, path, entry, data_start) for name, entry in header.items()]
    return TensorFile(path, metadata, tensors)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a file that the library has checked, and where the data start."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size), object_pairs_hook=_unique), 8 + size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. ValueError if a name stands twice: which of the two counts differs between readers."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _stored(name: str, path: Path, entry: dict[str, Any], data_start: int) -> StoredTensor:
    coding = CODINGS.get(entry["dtype"], Coding(entry["dtype"]))
    return StoredTensor(name, path, data_start + entry["data_offsets"][0], tuple(entry["shape"]), coding)


def open_sharded_safetensors(index_path: StrPath) -> TensorFile:
    """A TensorFile on the shards that a model.safetensors.index.json lists: {"weight_map": {name: file}}.

    The shards lie beside the index. `metadata` is that of the index. FileNotFoundError if a shard is missing;
    ValueError if a file is damaged, a shard lacks a tensor, or a file's name leads to another folder.
    """
    index_path = existing(index_path)
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
    if not path.is_file():
        raise FileNotFoundError(f"{index_path} lists {file}, but there is no such file beside it")
    shard = open_safetensors(path)
    missing = [name for name in names if name not in shard.shapes]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing[:3])}, which {index_path.name} says it holds")
    return [shard.tensors[name] for name in names]
