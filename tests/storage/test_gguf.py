"""GGUF: what the gguf package writes comes back, whole, changed or large."""

import sys
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from gguf_helpers import the_gguf_package
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz

from lora_np.storage import open_gguf
from lora_np.storage.gguf import _codings
from lora_np.storage.tensors import CHUNK

gguf = the_gguf_package()
Kind, Type = gguf.GGMLQuantizationType, gguf.GGUFValueType
DEQUANTISED = [kind for kind in gguf.GGML_QUANT_SIZES if _codings()[kind].decode]
REFUSED = [kind for kind in gguf.GGML_QUANT_SIZES if kind not in DEQUANTISED]


def written(path, pairs=(), tensors=(), alignment=None):
    """A file by the gguf package. pairs: (key, value, type, type of the parts); tensors: (name, array, type)."""
    writer = gguf.GGUFWriter(path, "test")
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, value, *types in pairs:
        writer.add_key_value(key, value, *types)
    for name, array, kind in tensors:
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


PAIRS = [
    ("u8", 255, Type.UINT8),
    ("i8", -128, Type.INT8),
    ("u16", 65535, Type.UINT16),
    ("i16", -32768, Type.INT16),
    ("u32", 2**32 - 1, Type.UINT32),
    ("i32", -(2**31), Type.INT32),
    ("f32", 0.15625, Type.FLOAT32),
    ("yes", True, Type.BOOL),
    ("no", False, Type.BOOL),
    ("text", "é ▁Ġ\n\0", Type.STRING),
    ("no text", "", Type.STRING),
    ("u64", 2**64 - 1, Type.UINT64),
    ("i64", -(2**63), Type.INT64),
    ("f64", 0.1, Type.FLOAT64),
    ("tokens", ["<s>", "", "é", "▁the"], Type.ARRAY),
    ("scores", [-1.5, 0.0, 3.25], Type.ARRAY),
    ("types", [1, -2, 3], Type.ARRAY, Type.INT32),
    ("bytes", b"\x00\xff", Type.ARRAY),
    ("flags", [True, False], Type.ARRAY),
]


class TestMetadata:
    def test_values_of_every_type_are_what_was_written_and_what_the_package_reads(self, tmp_path):
        path = written(tmp_path / "x", PAIRS)
        found = open_gguf(path).metadata
        fields = gguf.GGUFReader(path).fields
        assert found.pop("general.architecture") == "test"
        assert set(found) == {key for key, *_ in PAIRS}
        for key, value, *_ in PAIRS:
            expected = list(value) if isinstance(value, bytes) else value
            assert found[key] == expected == fields[key].contents()
            assert type(found[key]) is type(expected)
            assert not isinstance(expected, list) or [type(v) for v in found[key]] == [type(v) for v in expected]


class TestTensors:
    @pytest.mark.parametrize("kind", DEQUANTISED, ids=lambda kind: kind.name)
    @pytest.mark.parametrize("shape", [(3, 512), (300, 512)], ids=["one piece", "several pieces"])
    def test_every_coding_is_dequantised_as_the_package_does(self, tmp_path, rng, kind, shape):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (shape[0], shape[1] // block * size), np.uint8)
        path = written(tmp_path / "x", tensors=[("first", np.ones(5, "f4"), None), ("a", raw, kind)])
        file = open_gguf(path)
        stored = gguf.GGUFReader(path).tensors[1].data
        assert file.shapes == {"first": (5,), "a": shape}
        with np.errstate(all="ignore"):
            expected = stored if kind.name[0] in "FI" and kind.name[1].isdigit() else gguf.dequantize(stored, kind)
        with warnings.catch_warnings(action="error"):  # random scales are infinite here and there: no news
            found = file.read("a", expected.dtype)
        np.testing.assert_array_equal(found, expected)
        assert file.dtypes["a"] == expected.dtype

    @pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.BF16, Kind.F16])
    def test_quantised_weights_are_near_to_the_originals(self, tmp_path, rng, kind):
        array = rng.standard_normal((64, 128)).astype("f4")
        path = written(tmp_path / "x", tensors=[("a", gguf.quantize(array, kind), kind)])
        out = np.zeros((128, 64)).T
        open_gguf(path).read_into("a", out)
        assert 0 < np.abs(out - array).max() < {"Q4_0": 0.6, "Q4_1": 0.3, "Q5_0": 0.3}.get(kind.name, 0.03)

    def test_the_first_dimension_is_the_rows(self, tmp_path):
        array = np.arange(24, dtype="f4").reshape(2, 3, 4)
        np.testing.assert_array_equal(open_gguf(written(tmp_path / "x", tensors=[("a", array, None)])).read("a"), array)

    @pytest.mark.parametrize("alignment", [8, 64, 4096])
    def test_other_alignments(self, tmp_path, rng, alignment):
        arrays = {str(n): rng.standard_normal(n).astype("f4") for n in (3, 100, 1)}
        tensors = [(name, array, None) for name, array in arrays.items()]
        file = open_gguf(written(tmp_path / "x", tensors=tensors, alignment=alignment))
        assert list(file.shapes) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.read(name), array)

    def test_some_codings_are_refused_and_most_are_not(self):
        assert {Kind.F32, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K, Kind.IQ4_XS} <= set(DEQUANTISED)
        assert Kind.Q8_K in REFUSED
        assert all(CHUNK % block == 0 for block, _ in gguf.GGML_QUANT_SIZES.values())


KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K, Kind.IQ2_XXS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small file with many types of values and codings."""
    path = tmp_path_factory.mktemp("gguf") / "whole"
    sizes = [gguf.GGML_QUANT_SIZES[kind] for kind in KINDS]
    raw = [np.full((2, 256 // block * size), 17, np.uint8) for block, size in sizes]
    tensors = [(f"blk.{i}", *pair) for i, pair in enumerate(zip(raw, KINDS, strict=True))]
    return written(path, PAIRS, tensors).read_bytes()


@settings(fuzz, max_examples=500)
@example(changes=[])
@given(st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused_and_nothing_else(whole, tmp_path_factory, changes):
    """Most of the bytes up to 1,400 are the header."""
    path = tmp_path_factory.getbasetemp() / "changed"
    content = bytearray(whole)
    for place, value in changes:
        content[place] = value
    path.write_bytes(content)
    tracemalloc.start()
    try:
        file = open_gguf(path)
        with np.errstate(over="ignore"):  # float64 may be too large for float32
            message = None if all(file.read(name).shape == shape for name, shape in file.shapes.items()) else "shapes"
    except ValueError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message is None or (changes and str(path) in message)
    assert peak < 4e6


def test_the_package_that_is_missing_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "x", tensors=[("a", np.ones(3, "f4"), None)])
    _codings.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"reading a GGUF file needs the package gguf: .*pip install gguf"):
        open_gguf(path)


def test_a_large_vocabulary_is_read_quickly(tmp_path):
    tokens = [f"token {i}" for i in range(100_000)]
    path = written(tmp_path / "x", [("tokens", tokens, Type.ARRAY)])
    begin = time.perf_counter()
    assert open_gguf(path).metadata["tokens"] == tokens
    assert time.perf_counter() - begin < 2  # a tenth of a second where nothing else runs
