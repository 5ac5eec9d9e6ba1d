"""Folders that hold a model in another form: the error says which, and what to do."""

import pytest
from lora_helpers import tiny_model

from lora_np import AutoModelForCausalLM

WEIGHTS = [
    ("pytorch_model.bin", "pytorch_model.bin is a pickle, which can run any code and is not read here"),
    ("model-00001-of-00002.safetensors", "is a part of a model, without model.safetensors.index.json"),
    ("model.fp16.safetensors", "is a variant: rename it to model.safetensors"),
    ("consolidated.00.pth", "consolidated.00.pth is in the form of Meta"),
    ("tf_model.h5", "tf_model.h5 is for TensorFlow"),
    ("a.gguf", "a.gguf is a whole model in one file: give gguf_file='a.gguf'"),
]


@pytest.mark.parametrize(("name", "message"), WEIGHTS)
def test_other_weights_are_named(tmp_path, name, message):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    (tmp_path / "training_args.bin").write_text("")
    with pytest.raises(FileNotFoundError, match=rf"has no model\.safetensors\. Its .*{message}"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_folder_of_a_gguf_file_says_how_it_is_read(tmp_path):
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json\. Its b\.gguf is .* gguf_file='b\.gguf'"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_what_is_missing_is_said_where_nothing_else_is_there(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
