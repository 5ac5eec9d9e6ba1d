"""Files that are not what their names say."""

import pytest

from lora_np.models.tokenizers import load_tokenizer
from lora_np.storage import open_gguf, open_safetensors, read_json
from lora_np.storage.mistaken import instead
from lora_np.training import load_examples

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"a" * 64)
READERS = {
    "model.safetensors": open_safetensors,
    "model.gguf": open_gguf,
    "config.json": read_json,
    "tokenizer.json": lambda path: load_tokenizer(path.parent),
    "data.jsonl": load_examples,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pointer_of_git_lfs_is_called_so(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"{name}.*: it is a pointer of Git LFS, which stands for the file: run  git"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", list(READERS)[:4])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html>\n<html>", b"\xef\xbb\xbf\n<html lang=en>"])
def test_so_is_a_web_page(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*: it is a web page"):
        READERS[name](tmp_path / name)


def test_other_files_keep_their_own_error(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04" + b"a" * 20)
    with pytest.raises(ValueError, match=r"it is a zip archive; if torch\.save wrote it"):
        open_safetensors(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"abcdefgh")
    with pytest.raises(ValueError, match=r"it should begin with the length of a header"):
        open_safetensors(tmp_path / "model.safetensors")
    assert instead(b"") is None
    assert instead(b'{"a": 1}') is None
