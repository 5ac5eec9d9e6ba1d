"""TensorFile: pieces, arrays of any strides and types, and how much memory it all takes."""

import json
import math
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from gguf_helpers import the_gguf_package
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from lora_np.storage import open_safetensors, write_json, write_safetensors
from lora_np.storage.tensors import CHUNK, pieces


@examples
@given(st.lists(st.integers(0, 7), max_size=4), st.integers(1, 30))
def test_pieces_follow_each_other_and_cut_rows_only_at_multiples(shape, chunk):
    numbers = np.arange(math.prod(shape)).reshape(shape)
    parts = [numbers[index].ravel() for index in pieces(tuple(shape), chunk)]
    np.testing.assert_array_equal(np.concatenate(parts), numbers.ravel())
    assert all(part.size <= chunk for part in parts)
    row = shape[-1] if shape else 1
    assert all(part[0] % row % chunk == 0 for part in parts if part.size)


def test_many_rows_go_into_one_piece():
    assert len(list(pieces((1000, 1000)))) == math.ceil(1000 / (CHUNK // 1000))


STRIDES = {
    "rows": lambda shape, dtype: np.full(shape, 7, dtype),
    "columns": lambda shape, dtype: np.full(shape[::-1], 7, dtype).T,
    "every third": lambda shape, dtype: np.full((*shape[:-1], 3 * shape[-1]), 7, dtype)[..., ::3],
    "backwards": lambda shape, dtype: np.full(shape, 7, dtype)[::-1, ::-1],
}


class TestReadInto:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("strides", STRIDES)
    @pytest.mark.parametrize("shape", [(3, 5), (300, 700), (2, 3 * CHUNK), (2, 150, 300)])
    def test_any_strides_and_float_types(self, tmp_path, rng, shape, strides, dtype):
        array = rng.standard_normal(shape).astype("f4")
        write_safetensors(tmp_path / "x", {"a": array, "b": np.ones(3, "f4")})
        out = STRIDES[strides](shape, dtype)
        open_safetensors(tmp_path / "x").read_into("a", out)
        assert out.dtype == dtype
        np.testing.assert_array_equal(out, array.astype(dtype))

    def test_what_lies_between_the_strides_stays(self, tmp_path):
        write_safetensors(tmp_path / "x", {"a": np.zeros((4, 4), "f4")})
        whole = np.ones((4, 8), "f4")
        open_safetensors(tmp_path / "x").read_into("a", whole[:, ::2])
        np.testing.assert_array_equal(whole, np.tile([0, 1], (4, 4)))

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (CHUNK + 1,)])
    def test_numbers_and_empty_arrays(self, tmp_path, shape):
        write_safetensors(tmp_path / "x", {"a": np.full(shape, 2.5)})
        out = np.zeros(shape, "f4")
        open_safetensors(tmp_path / "x").read_into("a", out)
        np.testing.assert_array_equal(out, np.full(shape, 2.5))

    @pytest.mark.parametrize("shape", [(2, 3), (6,), (3, 2, 1), ()])
    def test_another_shape_is_refused(self, tmp_path, shape):
        write_safetensors(tmp_path / "x", {"a": np.ones((3, 2), "f4")})
        with pytest.raises(ValueError, match=r"x: tensor a has shape \(3, 2\), out has \("):
            open_safetensors(tmp_path / "x").read_into("a", np.zeros(shape))

    @pytest.mark.parametrize("out", [np.zeros(2, int), np.zeros(2, bool), np.zeros(2, "c8"), [0.0, 0.0], None])
    def test_only_float_arrays_are_filled(self, tmp_path, out):
        write_safetensors(tmp_path / "x", {"a": np.ones(2, "f4")})
        with pytest.raises(TypeError, match="out must be a NumPy array of float16, float32, float64, bfloat16, not"):
            open_safetensors(tmp_path / "x").read_into("a", out)

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
    def test_integers_are_no_weights_but_can_be_read(self, tmp_path, dtype):
        array = np.tri(3).astype(dtype)  # the causal mask of old GPT-2 files
        write_safetensors(tmp_path / "x", {"attn.bias": array})
        file = open_safetensors(tmp_path / "x")
        with pytest.raises(ValueError, match=f"x: tensor attn.bias holds {dtype}, not floats"):
            file.read_into("attn.bias", np.zeros((3, 3)))
        assert file.read("attn.bias").dtype == dtype
        np.testing.assert_array_equal(file.read("attn.bias"), array)

    def test_a_number_too_large_for_the_array_is_not_silent(self, tmp_path):
        write_safetensors(tmp_path / "x", {"a": np.array([1e300, np.nan, np.inf])})
        file = open_safetensors(tmp_path / "x")
        np.testing.assert_array_equal(file.read("a", "f8"), [1e300, np.nan, np.inf])
        with pytest.warns(RuntimeWarning, match="overflow"):
            file.read("a")

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_what_is_not_a_number_stays_so_without_a_warning(self, tmp_path, dtype):
        signalling = np.array([0x7F800001, 0xFF800001], "u4").view("f4")
        write_safetensors(tmp_path / "x", {"a": signalling})
        with warnings.catch_warnings(action="error"):
            assert np.isnan(open_safetensors(tmp_path / "x").read("a", dtype)).all()


def test_an_unknown_name_is_answered_with_close_ones(tmp_path):
    write_safetensors(tmp_path / "x", {"wte.weight": np.ones(2), "wpe.weight": np.ones(2)})
    file = open_safetensors(tmp_path / "x")
    with pytest.raises(KeyError, match=r"x has no tensor 'wte.wieght'; close: wte.weight"):
        file.read("wte.wieght")
    with pytest.raises(KeyError, match=r"x has no tensor 'zzz'; it holds 2 others"):
        file.read_into("zzz", np.ones(2))


def test_a_file_that_has_shrunk_since_it_was_opened_is_an_error(tmp_path):
    path = tmp_path / "x"
    write_safetensors(path, {"a": np.ones((300, 300), "f4"), "b": np.ones(2, "f4")})
    file = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:200_000])
    for name in "ab":
        with pytest.raises(ValueError, match=rf"x ended within tensor {name}: it has become shorter"):
            file.read(name)


LOADING = """
import contextlib
import sys
import numpy as np
from pathlib import Path
with contextlib.suppress(ImportError):
    import gguf.quants
from lora_np import storage

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

opener, path = sys.argv[1:]
file = getattr(storage, opener)(path)
small = min(file.shapes, key=lambda name: np.prod(file.shapes[name]))
file.read(small)  # what is loaded with the first use does not count
before = peak()
model = {name: np.empty(shape, np.float32) for name, shape in file.shapes.items() if name != small}
for name, out in model.items():
    file.read_into(name, out)
print((peak() - before) / sum(out.nbytes for out in model.values()))
"""


def shapes():
    """A model of 15M numbers, half of them in one embedding."""
    return {"small": (2, 64), "embedding": (12_000, 640), **{f"layer.{i}": (1280, 640) for i in range(9)}}


def safetensors_file(path, dtype):
    """A safetensors file of zeros with these shapes."""
    header, end = {}, 0
    for name, shape in shapes().items():
        start, end = end, end + math.prod(shape) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


def sharded_file(path):
    safetensors_file(path, "F32")
    write_json(path.with_suffix(".json"), {"weight_map": dict.fromkeys(shapes(), path.name)})
    return path.with_suffix(".json")


def gguf_file(path, kind):
    gguf = the_gguf_package()
    kind = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(path, "test")
    for name, (rows, columns) in shapes().items():
        raw = np.zeros((rows, columns // block * size), np.uint8)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# VmHWM and not getrusage: a process begins with the ru_maxrss of the one that started it, here a large pytest.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read from /proc")
@pytest.mark.parametrize(
    ("opener", "make"),
    [
        ("open_safetensors", lambda path: safetensors_file(path, "F32")),
        ("open_safetensors", lambda path: safetensors_file(path, "BF16")),
        ("open_sharded_safetensors", sharded_file),
        ("open_gguf", lambda path: gguf_file(path, "F16")),
        ("open_gguf", lambda path: gguf_file(path, "Q4_1")),
    ],
    ids=["float32", "bfloat16", "sharded", "gguf-float16", "gguf-Q4_1"],
)
def test_loading_takes_little_more_memory_than_the_model(tmp_path, opener, make):
    path = make(tmp_path / "x.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", LOADING, opener, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert 0.9 < float(done.stdout) < 1.3  # less would mean that nothing was measured
