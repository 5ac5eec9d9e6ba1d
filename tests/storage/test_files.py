"""Text and JSON: clear errors when they are read."""

import json
import os

import pytest

from lora_np.storage import (
    existing,
    is_there,
    open_gguf,
    open_safetensors,
    open_sharded_safetensors,
    read_json,
    read_safetensors,
    write_json,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


class TestJson:
    def test_it_is_indented_sorted_and_comes_back(self, tmp_path):
        value = {"b": [1, 2.5, None], "a": {"d": "é", "c": True}}
        write_json(tmp_path / "x.json", value)
        text = (tmp_path / "x.json").read_text()
        assert text == json.dumps({"a": value["a"], "b": value["b"]}, indent=2) + "\n"  # what is inside keeps its order
        assert read_json(tmp_path / "x.json") == value

    def test_what_is_no_json_leaves_the_old_file(self, tmp_path):
        write_json(tmp_path / "x.json", {"a": 1})
        with pytest.raises(TypeError):
            write_json(tmp_path / "x.json", {"a": object()})
        assert read_json(tmp_path / "x.json") == {"a": 1}
        assert names(tmp_path) == ["x.json"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not valid JSON"),
            (b'{"a": 1', "not valid JSON"),
            (b"{'a': 1}", "not valid JSON"),
            (b"\xff\xfe\x00", "not valid JSON"),
            (b"[" * 100_000, "not valid JSON"),
            (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
            (b"[1, 2]", "should hold a JSON object, not a list"),
            (b'"text"', "should hold a JSON object, not a str"),
            (b"null", "should hold a JSON object, not a NoneType"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_anything_else_is_refused_with_the_files_name(self, tmp_path, content, message):
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read_json(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "read", [read_json, read_safetensors, existing, open_safetensors, open_sharded_safetensors, open_gguf]
)
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is a directory, not a file"):
        read(tmp_path)


def test_a_json_file_of_too_many_values_is_refused(tmp_path, monkeypatch):
    """As objects they take twenty times the file's memory."""
    monkeypatch.setattr("lora_np.storage.files.MAX_VALUES", 3)
    (tmp_path / "x.json").write_text('{"a": [1, 2, 3, 4]}')
    assert read_json(tmp_path / "x.json") == {"a": [1, 2, 3, 4]}
    (tmp_path / "x.json").write_text('{"a": [1, 2, 3, 4, 5]}')
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON: it has more than 3 values"):
        read_json(tmp_path / "x.json")


def test_a_file_that_may_be_missing_is_there_or_not(tmp_path):
    assert not is_there(tmp_path / "x")
    (tmp_path / "x").touch()
    assert is_there(tmp_path / "x")
    (tmp_path / "link").symlink_to("x")
    assert is_there(tmp_path / "link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_what_is_no_file_is_neither_there_nor_missing(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name, message in {"folder": "is a directory", "pipe": "is no file", "link": "is no file"}.items():
        for ask in (is_there, existing):
            with pytest.raises(FileNotFoundError, match=f"{name} {message}"):
                ask(tmp_path / name)
