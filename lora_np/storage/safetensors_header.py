"""What the header of a safetensors file must say, checked with Python alone.

The safetensors library checks it too, but is written in Rust: in a browser there is none. The rules are its own. The
tensors' bytes follow one another with no gap and no overlap, as many as shape and type need, to the end of the file.
"""

import json
import math
import re
from typing import Annotated, Any, Literal

from .fields import Between, check_fields
from .tensors import MAX_DIMENSIONS

# How many bits a number of each type takes.
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8}
BITS |= {"F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64}

METADATA = "__metadata__"
DEEPEST = 100  # objects and lists within each other: a header needs 3, and a browser's Python dies of some thousand
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_Number = Annotated[int, Between(0, 2**63 - 1, "an integer of at least 0")]
FIELDS = {"dtype": Literal[tuple(BITS)], "shape": list[_Number], "data_offsets": list[_Number]}


def parse_header(raw: bytes, size: int) -> dict[str, Any]:
    """The header, a dict, from its bytes; `size` is how many bytes of tensors follow it. ValueError if it is wrong."""
    _check_depth(raw)
    header = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    if not isinstance(header, dict):
        raise ValueError(f"the header is no JSON object but a {type(header).__name__}")
    _check_metadata(header.get(METADATA))
    tensors = {name: entry for name, entry in header.items() if name != METADATA}
    for name, entry in tensors.items():
        _check_entry(name, entry)
    _check_places(tensors, size)
    return header


def _check_depth(raw: bytes) -> None:
    """ValueError if objects and lists are too deep within each other."""
    depth = 0
    for bracket in re.findall(rb"[][{}]", _STRINGS.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST:
            raise ValueError(f"the header has more than {DEEPEST} objects and lists within each other")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. ValueError if a name stands twice: which of the two counts differs between readers."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in the header")
    "".join(found).encode()  # half of a pair of surrogates is no text
    return found


def _refuse(constant: str) -> None:
    """Python reads NaN and Infinity, JSON does not have them."""
    raise ValueError(f"{constant} is not JSON")


def _check_metadata(metadata: Any) -> None:
    is_sound = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not is_sound:
        raise ValueError(f"{METADATA} must be an object, its values texts")


def _check_entry(name: str, entry: Any) -> None:
    """ValueError if what the header says of a tensor is not of the right types."""
    if not isinstance(entry, dict) or not entry.keys() >= FIELDS.keys():
        raise ValueError(f"tensor {name} must be an object with {', '.join(FIELDS)}")
    try:
        check_fields(entry, FIELDS)
    except ValueError as error:
        raise ValueError(f"tensor {name}: {error}") from None
    if len(entry["data_offsets"]) != 2 or len(entry["shape"]) > MAX_DIMENSIONS:
        raise ValueError(f"tensor {name} should have 2 data_offsets and at most {MAX_DIMENSIONS} dimensions")


def _check_places(tensors: dict[str, dict[str, Any]], size: int) -> None:
    """ValueError if the tensors do not fill `size` bytes, one after another."""
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda tensor: tensor[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        bits = math.prod(entry["shape"]) * BITS[entry["dtype"]]
        if start != end or 8 * (stop - start) != bits:
            raise ValueError(f"tensor {name} lies at {start} to {stop}, not at {end} to {end + bits / 8:g}")
        end = stop
    if end != size:
        raise ValueError(f"the tensors take {end} bytes, and {size} follow the header")
