"""The check of a header in Python says of every file what the safetensors library says of it."""

import json
import struct
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load, save

from lora_np.storage import read_safetensors, write_safetensors
from lora_np.storage.safetensors_header import BITS, parse_header

INSTALLED = version("safetensors")
pytestmark = pytest.mark.skipif(
    tuple(map(int, INSTALLED.split(".")[:2])) < (0, 8),
    reason=f"safetensors {INSTALLED} knows fewer types and judges headers otherwise; compared with 0.8",
)
NUMPY = ["f2", "f4", "f8", "?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
METADATA = st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3)


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    """As in a browser."""
    monkeypatch.setattr("lora_np.storage.safetensors.safe_open", None)


@st.composite
def tensors(draw):
    """{name: array} of any types and shapes."""
    found = {}
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(NUMPY)), tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        raw = draw(st.binary(min_size=0, max_size=8))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array = np.resize(np.frombuffer(raw or b"\0", np.uint8), size)
        found[name] = (array % 2 if dtype == "?" else array).view(dtype).reshape(shape)
    return found


def assert_same(found, arrays):
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@settings(fuzz, max_examples=150)
@given(tensors(), METADATA)
def test_what_the_library_writes_is_read_here(tmp_path, arrays, metadata):
    (tmp_path / "x").write_bytes(save(arrays, metadata or None))
    found, said = read_safetensors(tmp_path / "x")
    assert_same(found, arrays)
    assert said == metadata


@settings(fuzz, max_examples=150)
@given(tensors(), METADATA)
def test_what_is_written_here_the_library_reads(tmp_path, arrays, metadata):
    write_safetensors(tmp_path / "x", arrays, metadata)
    raw = (tmp_path / "x").read_bytes()
    assert_same(load(raw), arrays)
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"] == {"format": "pt"} | metadata


def verdict(raw):
    """Does the library read the bytes of this file?"""
    try:
        deserialize(raw)
    except SafetensorError:
        return False
    return True


def ours(raw):
    """Does the check in Python pass for these bytes?"""
    size = struct.unpack("<Q", raw[:8])[0]
    try:
        parse_header(raw[8 : 8 + size], len(raw) - 8 - size)
    except (ValueError, RecursionError):
        return False
    return True


def file_of(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_type_takes_the_bytes_that_the_library_says(dtype):
    count = 8  # numbers: whole bytes, whatever the type
    sizes = range(count * BITS[dtype] // 8 + 2)
    files = [file_of({"a": {"dtype": dtype, "shape": [count], "data_offsets": [0, n]}}, bytes(n)) for n in sizes]
    assert [ours(raw) for raw in files] == [verdict(raw) for raw in files]
    assert sum(map(ours, files)) == 1


def test_there_is_no_type_that_the_library_has_and_the_table_lacks():
    """It lists them when it refuses one."""
    with pytest.raises(SafetensorError) as error:
        deserialize(file_of({"a": {"dtype": "X", "shape": [], "data_offsets": [0, 0]}}, b""))
    assert set(str(error.value).partition("expected one of ")[2].split("`")[1::2]) == set(BITS)


@pytest.mark.parametrize("within", ["[", '{"a":'])
def test_what_is_nested_deep_is_refused_before_python_reads_it(monkeypatch, within):
    monkeypatch.setattr("lora_np.storage.safetensors_header.json", None)
    raw = b'{"a": ' + (within * 5000).encode()
    with pytest.raises(ValueError, match="more than 100 objects and lists within each other"):
        parse_header(raw, 0)


def test_brackets_in_names_are_none():
    name = "[{" * 200 + '"\\'
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    assert parse_header(json.dumps(header).encode(), 1) == header


PLACES = st.integers(0, 12)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "U16", "F4", "F6_E2M3", "F32", "F33", 3]),
        "shape": st.lists(st.integers(-1, 4) | st.sampled_from([1.0, True, None, "1"]), max_size=2),
        "data_offsets": st.tuples(PLACES, PLACES),
    },
    optional={"more": st.sampled_from([None, [1], 0.5])},
)
NEIGHBOURS = st.lists(st.tuples(st.sampled_from(["U8", "F4", "U16"]), st.integers(0, 6)), max_size=4)


@settings(fuzz, max_examples=400)
@given(st.dictionaries(st.sampled_from("abc"), ENTRIES, max_size=3), PLACES)
def test_any_header_is_judged_as_the_library_judges_it(header, size):
    raw = file_of(header, bytes(size))
    assert ours(raw) == verdict(raw)


@settings(fuzz, max_examples=400)
@given(NEIGHBOURS, st.permutations(range(4)), st.sampled_from([0, 0, 0, 0, -1, 1]), st.integers(0, 3))
def test_tensors_in_a_row_with_at_most_one_mistake(neighbours, order, shift, which):
    """In any order in the header, with no gap; then one of them begins or ends elsewhere."""
    entries, end = [], 0
    for dtype, count in neighbours:
        size = count * BITS[dtype] // 8
        entries.append({"dtype": dtype, "shape": [count], "data_offsets": [end, end + size]})
        end += size
    if which < len(entries):
        offsets = entries[which]["data_offsets"]
        offsets[which % 2] = max(0, offsets[which % 2] + shift)
    raw = file_of({str(i): entries[i] for i in order if i < len(entries)}, bytes(end))
    assert ours(raw) == verdict(raw)


WHOLE = save({"a": np.zeros(3, np.float32), "b": np.zeros((2, 1), np.int64)}, {"some": "ä"})


@settings(fuzz, max_examples=600)
@given(st.data())
def test_a_damaged_file_is_judged_as_the_library_judges_it(data):
    header = bytearray(WHOLE[8 : WHOLE.rindex(b"}") + 1])
    for _ in range(data.draw(st.integers(1, 2))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(
            st.sampled_from(b'{}[]":,0123456789- ab\\\xc3\0')
        )
    raw = file_of(bytes(header), bytes(28))
    # Two readers may differ about which of two equal names counts, so a file with any is refused here.
    assert ours(raw) == verdict(raw) or (not ours(raw) and b"twice" in refusal(raw))


def refusal(raw):
    try:
        read = 8 + struct.unpack("<Q", raw[:8])[0]
        parse_header(raw[8:read], len(raw) - read)
    except ValueError as error:
        return str(error).encode()
    return b""
