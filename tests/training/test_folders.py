"""A folder of texts."""

import pytest

from lora_np.training import load_text
from lora_np.training.folders import hold_out_ends, load_folder


@pytest.fixture
def folder(tmp_path):
    for name, content in {
        "b.txt": "second\r\ntext",
        "a.md": "\ufefffirst",
        "sub/c.py": "third",
        "empty.txt": " \n",
        ".hidden": "no",
        ".git/d.txt": "no",
        "examples.jsonl": '{"text": "no"}',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode())
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\xff")
    return tmp_path


def test_all_texts_are_read_and_what_is_none_is_named(folder):
    texts, others = load_folder(folder)
    assert texts == {"a.md": "first", "b.txt": "second\ntext", "sub/c.py": "third"}
    assert others == ["examples.jsonl", "picture.png"]
    assert load_text(folder) == texts


def test_a_folder_without_a_text_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"has no text to learn from: what is there, x\.png, is no UTF-8 text"):
        load_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no text to learn from \(of examples, give the file\)"):
        load_text(tmp_path / "empty")


def test_the_end_of_each_text_is_held_out():
    texts = {"a": "line\n" * 20, "b": "x" * 10}
    parts = hold_out_ends(texts)
    assert {name: parts["train"][name] + parts["test"][name] for name in texts} == texts
    assert parts["test"] == {"a": "line\n" * 2, "b": "x"}
