"""GGUF files in several parts, as the gguf package splits them."""

import shutil

import numpy as np
import pytest
from gguf_helpers import gguf_metadata, gguf_tensors, the_gguf_package, write_gguf
from lora_helpers import logits_of, tiny_llama

from lora_np import AutoModelForCausalLM
from lora_np.storage import open_gguf

FIRST = "m-00001-of-00004.gguf"


def write_parts(folder, tensors, metadata, most):
    """Files of at most `most` tensors each, by the gguf package. The first has none: only key-values."""
    gguf = the_gguf_package()
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=most, small_first_shard=True)
    for key, value in metadata.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return sorted(folder.glob("*.gguf"))


@pytest.fixture
def split(tmp_path):
    """A tiny Llama, and a folder with its four parts."""
    model = tiny_llama()
    paths = write_parts(tmp_path, gguf_tensors(model), gguf_metadata(model), 8)
    assert [path.name for path in paths] == [f"m-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]
    return model, tmp_path


def test_the_parts_are_the_whole(split):
    model, folder = split
    whole = open_gguf(write_gguf(folder / "whole.gguf", model))
    parts = open_gguf(folder / FIRST)
    assert parts.shapes == whole.shapes
    for name in whole.shapes:
        np.testing.assert_array_equal(parts.read(name), whole.read(name))
    for given in ((folder / FIRST,), (folder, FIRST)):
        np.testing.assert_array_equal(logits_of(AutoModelForCausalLM.from_pretrained(*given)), logits_of(model))


def test_a_later_part_says_which_is_the_first(split):
    with pytest.raises(ValueError, match=rf"m-00003-of-00004\.gguf is not the first of its 4 parts: give {FIRST}"):
        open_gguf(split[1] / "m-00003-of-00004.gguf")


def test_a_missing_part_is_named(split):
    (split[1] / "m-00003-of-00004.gguf").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{FIRST} is the first of 4 parts, and m-00003-of-00004\.gguf is not"):
        open_gguf(split[1] / FIRST)


def test_another_name_is_refused(split):
    shutil.copy(split[1] / FIRST, split[1] / "first.gguf")
    with pytest.raises(ValueError, match=r"first\.gguf is one of 4 parts, and should be called NAME-00001-of-00004"):
        open_gguf(split[1] / "first.gguf")


def test_parts_of_another_number_are_refused(split):
    shutil.copy(split[1] / "m-00002-of-00004.gguf", split[1] / "m-00003-of-00004.gguf")
    with pytest.raises(ValueError, match=r"00003-of-00004\.gguf: split\.no and split\.count should be 2 and 4, not 1"):
        open_gguf(split[1] / FIRST)


def test_a_damaged_part_is_named(split):
    path = split[1] / "m-00004-of-00004.gguf"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"m-00004-of-00004\.gguf"):
        open_gguf(split[1] / FIRST)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"split.count": 2, "split.no": 0}, "and should be called NAME-00001-of-00002.gguf"),
        ({"split.count": "two"}, "split.count should be a whole number, not 'two'"),
        ({"split.count": True}, "split.count should be a whole number, not True"),
    ],
)
def test_what_a_whole_file_may_not_say(tmp_path, metadata, message):
    with pytest.raises(ValueError, match=message):
        open_gguf(write_gguf(tmp_path / "model.gguf", tiny_llama(), metadata=metadata))


def test_one_part_is_a_whole_file(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", tiny_llama(), metadata={"split.count": 1, "split.no": 0})
    assert open_gguf(path).shapes


def test_tensors_that_are_twice_or_not_there_are_told(tmp_path):
    model = tiny_llama()
    for i, tensors in ((0, {}), (1, {"token_embd.weight": None})):
        own = {"split.no": i, "split.count": 2, "split.tensors.count": 21}
        path = tmp_path / f"m-0000{i + 1}-of-00002.gguf"
        write_gguf(path, model, metadata=own, tensors=tensors)
    with pytest.raises(ValueError, match=r"m-00002-of-00002\.gguf: an earlier part has blk\.0\.attn_k\.weight, too"):
        open_gguf(tmp_path / "m-00001-of-00002.gguf")
    none = dict.fromkeys(gguf_tensors(model))
    write_gguf(path, model, metadata=own, tensors={**none, "output_norm.bias": np.ones(3, "f4")})
    with pytest.raises(ValueError, match=r"split\.tensors\.count is 21, but the 2 parts have 22 tensors"):
        open_gguf(tmp_path / "m-00001-of-00002.gguf")
