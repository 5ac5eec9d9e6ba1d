"""safetensors: ours and the library's, bfloat16, shards, and damage."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz

from lora_np.storage import open_safetensors, open_sharded_safetensors, read_safetensors, write_json, write_safetensors


@pytest.fixture(params=["library", "no library"])
def with_and_without_library(request, monkeypatch):
    """The safetensors library is installed, or is not, as in a browser."""
    if request.param == "no library":
        monkeypatch.setattr("lora_np.storage.safetensors.safe_open", None)


def raw_file(path, header, data=b""):
    """A safetensors file with any header: a dict, or JSON text."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.usefixtures("with_and_without_library")
class TestWhole:
    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "i4", "u1", "?"])
    def test_arrays_come_back_bit_for_bit(self, tmp_path, rng, dtype):
        arrays = {"matrix": rng.integers(0, 2, (3, 4)).astype(dtype), "number": np.array(1, dtype)}
        arrays |= {"empty": np.zeros((0, 3), dtype), "transposed": np.arange(6).reshape(2, 3).astype(dtype).T}
        write_safetensors(tmp_path / "x.safetensors", arrays)
        found, metadata = read_safetensors(tmp_path / "x.safetensors")
        assert metadata == {"format": "pt"}
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)

    def test_metadata_is_added_to_the_format(self, tmp_path):
        write_safetensors(tmp_path / "x", {}, {"run": "1"})
        assert read_safetensors(tmp_path / "x") == ({}, {"format": "pt", "run": "1"})

    @pytest.mark.parity
    def test_pytorch_reads_what_is_written_here(self, tmp_path, rng):
        from safetensors.torch import load_file

        array = rng.standard_normal((3, 4)).T
        write_safetensors(tmp_path / "x", {"a": array})
        np.testing.assert_array_equal(load_file(tmp_path / "x")["a"].numpy(), array)

    @pytest.mark.gpu
    def test_arrays_on_the_gpu_are_written_too(self, tmp_path):
        import cupy

        write_safetensors(tmp_path / "x", {"a": cupy.arange(6).reshape(2, 3).T})
        np.testing.assert_array_equal(read_safetensors(tmp_path / "x")[0]["a"], np.arange(6).reshape(2, 3).T)

    def test_what_can_not_be_written_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "x"
        write_safetensors(path, {"a": np.ones(2)})
        with pytest.raises(Exception, match=r".+"):
            write_safetensors(path, {"a": np.array([object()])})
        np.testing.assert_array_equal(read_safetensors(path)[0]["a"], 1)
        assert [file.name for file in tmp_path.iterdir()] == ["x"]

    @settings(fuzz, max_examples=100)
    @given(st.data())
    def test_damage_is_refused_with_the_files_name(self, tmp_path, data):
        path = tmp_path / "x.safetensors"
        arrays = {"a": np.arange(3, dtype=np.float32), "b": np.arange(4, dtype=np.int64).reshape(2, 2)}
        write_safetensors(path, arrays)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            found, _ = read_safetensors(path)
        except ValueError as error:
            message = str(error)
        else:
            assert len(found) == 2
            return
        assert str(path) in message


# JSON lets the last of two equal names win.
TWICE = '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
TWICE = TWICE[:-1] + ", " + TWICE[1:]
# From the definition: the upper 16 bits of a float32.
BFLOAT16 = {0x0000: 0.0, 0x8000: -0.0, 0x3F80: 1.0, 0xBF80: -1.0, 0x3FC0: 1.5, 0x4049: 3.140625, 0x0001: 2.0**-133}
BFLOAT16 |= {0x7F7F: 3.3895313892515355e38, 0x7F80: np.inf, 0xFF80: -np.inf}


class TestBfloat16:
    def test_known_numbers(self, tmp_path):
        data = np.array(list(BFLOAT16), "<u2").tobytes()
        path = raw_file(tmp_path / "x", {"a": entry("BF16", [len(BFLOAT16)], 0, len(data))}, data)
        expected = np.array(list(BFLOAT16.values()), np.float32)
        for found in (read_safetensors(path)[0]["a"], open_safetensors(path).read("a")):
            assert found.dtype == np.float32
            assert found.tobytes() == expected.tobytes()

    @pytest.mark.parity
    def test_every_bit_pattern_is_what_pytorch_makes_of_it(self, tmp_path):
        import torch
        from safetensors.torch import save_file

        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).reshape(128, 512)
        save_file({"a": every}, tmp_path / "x")
        np.testing.assert_array_equal(read_safetensors(tmp_path / "x")[0]["a"], every.float().numpy())


@pytest.mark.usefixtures("with_and_without_library")
class TestOpen:
    def test_names_shapes_types_and_metadata_are_known_before_anything_is_read(self, tmp_path):
        write_safetensors(tmp_path / "x", {"b": np.ones((2, 3), "f2"), "a": np.array(1)}, {"run": "1"})
        file = open_safetensors(tmp_path / "x")
        assert file.path == tmp_path / "x"
        assert file.shapes == {"a": (), "b": (2, 3)}
        assert file.dtypes == {"a": "int64", "b": "float16"}
        assert file.metadata == {"format": "pt", "run": "1"}

    def test_a_file_without_metadata_has_an_empty_dict(self, tmp_path):
        assert open_safetensors(raw_file(tmp_path / "x", {})).metadata == {}

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
    def test_the_library_reads_the_same(self, tmp_path, rng, dtype):
        from safetensors.numpy import load_file, save_file

        array = rng.integers(0, 2 if dtype == "?" else 120, (70, 1000)).astype(dtype)  # more than one piece
        save_file({"first": np.ones(3, "f4"), "a": array}, tmp_path / "x")
        found = open_safetensors(tmp_path / "x").read("a")
        assert found.dtype == ("float32" if dtype[0] == "f" else dtype)
        np.testing.assert_array_equal(found, load_file(tmp_path / "x")["a"])

    def test_a_type_that_numpy_lacks_is_named_when_it_is_read(self, tmp_path):
        header = {"a": entry("F8_E4M3", [4], 0, 4), "b": entry("U8", [2], 4, 6)}
        file = open_safetensors(raw_file(tmp_path / "x", header, bytes(6)))
        np.testing.assert_array_equal(file.read("b"), [0, 0])
        with pytest.raises(ValueError, match=r"x: tensor a is stored as F8_E4M3, which cannot be dequantised here"):
            file.read("a")
        with pytest.raises(ValueError, match="F8_E4M3"):
            read_safetensors(tmp_path / "x")

    @pytest.mark.parametrize(
        ("header", "data"),
        [
            ("", b""),
            ("[]", b""),
            ("null", b""),
            ('{"a": ["F32", [1], [0, 4]]}', bytes(4)),
            ({"a": entry({"F32": None}, [1], 0, 4)}, bytes(4)),
            ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
            ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, bytes(4)),
            ({"a": entry("F32", [True], 0, 4)}, bytes(4)),
            ({"a": entry("F32", [1.0], 0, 4)}, bytes(4)),
            ({"a": entry("F32", None, 0, 4)}, bytes(4)),
            ({"a": entry("F4", [1], 0, 0)}, b""),
            ({"a": entry("F32", [1], 0, 4) | {"more": float("nan")}}, bytes(4)),
            ({"a\ud800": entry("F32", [1], 0, 4)}, bytes(4)),
            ("{", b""),
            ('{"a":' * 5000, b""),
            ({"a": entry("F32", [2], 0, 4)}, bytes(4)),
            ({"a": entry("F32", [1], 0, 4)}, bytes(3)),
            ({"a": entry("F32", [1], 0, 4)}, bytes(5)),
            ({"a": entry("F32", [2**61], 0, 2**63)}, bytes(4)),
            ({"a": entry("F32", [2**63, 2], 0, 0)}, b""),
            ({"a": entry("F32", [0, 2**62], 0, 0)}, b""),
            ({"a": entry("F32", [1] * 100, 0, 4)}, bytes(4)),
            ({"a": entry("F32", [-1], 0, 4)}, bytes(4)),
            ({"a": entry("X32", [1], 0, 4)}, bytes(4)),
            ({"a": entry("F32", [1], 4, 8)}, bytes(8)),
            ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4)),
            ({"__metadata__": {"a": 1}}, b""),
            ({"__metadata__": []}, b""),
            (TWICE, bytes(4)),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_a_header_that_lies_is_refused_with_the_files_name(self, tmp_path, header, data):
        path = raw_file(tmp_path / "x", header, data)
        for read in (open_safetensors, read_safetensors):
            with pytest.raises(ValueError, match=r".") as error:
                read(path)
            assert str(path) in str(error.value)

    @pytest.mark.parametrize("size", [2, 1000, 2**40, 2**64 - 1])
    def test_the_length_of_the_header_is_not_believed(self, tmp_path, size):
        path = tmp_path / "x"
        path.write_bytes(struct.pack("<Q", size) + b"{}" + b" " * 100)
        with pytest.raises(ValueError, match=r"x is not a readable safetensors file"):
            open_safetensors(path)

    def test_more_tensors_than_can_be_looked_up_soon_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("lora_np.storage.safetensors.MOST_TENSORS", 3)
        path = tmp_path / "x.safetensors"
        write_safetensors(path, {name: np.zeros(1) for name in "abc"})
        assert sorted(read_safetensors(path)[0]) == ["a", "b", "c"]
        write_safetensors(path, {name: np.zeros(1) for name in "abcd"})
        with pytest.raises(ValueError, match=r"x\.safetensors .* more than 3 tensors in one file"):
            read_safetensors(path)

    def test_every_truncation_is_refused(self, tmp_path):
        path = raw_file(tmp_path / "x", {"a": entry("F32", [3], 0, 12)}, bytes(12))
        content = path.read_bytes()
        for size in range(len(content)):
            path.write_bytes(content[:size])
            with pytest.raises(ValueError, match=r"x is not a readable safetensors file"):
                open_safetensors(path)


@pytest.fixture
def shards(tmp_path):
    """Two shards of two tensors each, their arrays, and the path of the index."""
    arrays = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abcd")}
    for file, names in {"1.safetensors": "ab", "2.safetensors": "cd"}.items():
        write_safetensors(tmp_path / file, {name: arrays[name] for name in names})
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {"a": "1.safetensors", "c": "2.safetensors", "b": "1.safetensors", "d": "2.safetensors"}
    write_json(index, {"metadata": {"total_size": 96}, "weight_map": weight_map})
    return index, arrays


def edit(index, **changes):
    value = json.loads(index.read_text())
    value["weight_map"].update(changes)
    index.write_text(json.dumps(value))


class TestSharded:
    def test_tensors_come_from_their_shards(self, shards):
        index, arrays = shards
        file = open_sharded_safetensors(index)
        assert file.path == index
        assert file.metadata == {"total_size": 96}
        assert file.shapes == dict.fromkeys("abcd", (2, 3))
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.read(name), array)

    def test_a_tensor_that_the_index_does_not_list_is_not_there(self, shards):
        index, _ = shards
        index.write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
        assert set(open_sharded_safetensors(index).shapes) == {"a"}

    @pytest.mark.parity
    def test_what_transformers_splits_comes_back_whole(self, tmp_path):
        import torch
        import transformers

        config = transformers.GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2)
        model = transformers.GPT2LMHeadModel(config).to(torch.bfloat16)
        model.save_pretrained(tmp_path, max_shard_size="5KB")
        file = open_sharded_safetensors(tmp_path / "model.safetensors.index.json")
        assert len({tensor.path for tensor in file.tensors.values()}) > 1
        state = model.state_dict()
        assert set(file.shapes) == set(state) - {"lm_head.weight"}  # tied to the embedding
        for name in file.shapes:
            np.testing.assert_array_equal(file.read(name), state[name].float().numpy())

    @pytest.mark.parametrize("value", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{", ""])
    def test_an_index_without_a_weight_map_is_refused(self, shards, value):
        index, _ = shards
        index.write_text(value)
        with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
            open_sharded_safetensors(index)

    def test_metadata_that_are_no_dict_are_refused(self, shards):
        index, _ = shards
        index.write_text('{"weight_map": {"a": "1.safetensors"}, "metadata": 3}')
        with pytest.raises(ValueError, match=r"index\.json should hold"):
            open_sharded_safetensors(index)

    @pytest.mark.parametrize(
        "file",
        ["../1.safetensors", "/1.safetensors", "a/1", "a\\1", "C:1", "..", ".", "", "./1.safetensors", None, 3, []],
    )
    def test_a_name_that_leads_elsewhere_is_refused(self, shards, file):
        index, _ = shards
        (index.parent / "a").mkdir()
        for name in ("a/1", "a\\1", "C:1"):
            (index.parent / name).write_bytes((index.parent / "1.safetensors").read_bytes())
        edit(index, a=file)
        with pytest.raises(ValueError, match=r"index\.json: tensor a should lie in a file beside the index, not in"):
            open_sharded_safetensors(index)

    def test_a_shard_may_be_a_link(self, shards):
        index, arrays = shards
        (index.parent / "blobs").mkdir()
        blob = (index.parent / "2.safetensors").rename(index.parent / "blobs" / "2")
        (index.parent / "2.safetensors").symlink_to(blob)
        np.testing.assert_array_equal(open_sharded_safetensors(index).read("c"), arrays["c"])

    @pytest.mark.parametrize("name", ["3.safetensors", "a\0", "blobs"])
    def test_a_missing_shard_is_named(self, shards, name):
        index, _ = shards
        (index.parent / "blobs").mkdir()
        edit(index, a=name)
        with pytest.raises(FileNotFoundError, match=rf"index\.json lists {name}, but there is no such file beside it"):
            open_sharded_safetensors(index)

    def test_a_tensor_that_its_shard_lacks_is_named(self, shards):
        index, _ = shards
        edit(index, a="2.safetensors", x="2.safetensors")
        with pytest.raises(ValueError, match=r"2\.safetensors lacks a, x, which model\.safetensors\.index\.json says"):
            open_sharded_safetensors(index)

    def test_a_damaged_shard_is_named(self, shards):
        index, _ = shards
        path = index.parent / "2.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"2\.safetensors is not a readable safetensors file"):
            open_sharded_safetensors(index)
