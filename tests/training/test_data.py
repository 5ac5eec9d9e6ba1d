"""Text as training data: what the corpora hold, how they are split, and what a window is."""

import math
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_np import ByteTokenizer, ExampleData, TextData
from lora_np.training.data import (
    fingerprint,
    hold_out_last,
    load_text,
    prose_documents,
    python_documents,
    split_documents,
)


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def byte_data(text, length, batch_size=4):
    return TextData({"a": text}, ByteTokenizer(), length, batch_size)


@pytest.fixture(scope="module")
def library():
    return python_documents()


def test_the_standard_library_is_read_as_it_is(library):
    root = Path(sysconfig.get_paths()["stdlib"])
    assert list(library) == sorted(library)
    for name in ("argparse.py", "json/decoder.py", "asyncio/tasks.py"):
        assert library[name] == (root / name).read_text(encoding="utf-8")
    assert 5e6 < sum(map(len, library.values())) < 5e7


def test_the_standard_library_comes_without_tests_and_prose(library):
    folders = {part for name in library for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "pydoc_data", "site-packages", "__pycache__", "encodings"}
    sentence = prose_documents()["assert"].strip().splitlines()[3].strip()
    assert len(sentence) > 30
    assert not any(sentence in text for text in library.values())
    assert not any("class TestCase" in text for name, text in library.items() if not name.startswith("unittest/"))


def test_prose_is_the_reference_in_english():
    prose = prose_documents()
    assert list(prose) == sorted(prose)
    assert {"assert", "for", "lambda", "with"} <= set(prose)
    assert 3e5 < sum(map(len, prose.values())) < 2e6
    words = " ".join(prose.values()).split()
    assert words.count("the") / len(words) > 0.04


def test_a_folder_of_ones_own(tmp_path):
    """Folders above the root do not count, so a project kept in a folder called `tests` can be read."""
    files = {
        "b.py": "b = 1\n",
        "a.py": "a = 'ä'\n",
        "deep/er/c.py": "c = 2\n",
        "latin.py": b"# \xe4\n",
        "empty.py": "",
        "blank.py": " \n\n",
        "readme.md": "text",
        "tests/test_a.py": "assert 1",
        "x/test/d.py": "assert 1",
        "x/__pycache__/d.py": "assert 1",
    }
    documents = python_documents(write(tmp_path / "tests", files))
    expected = {"a.py": "a = 'ä'\n", "b.py": "b = 1\n", "deep/er/c.py": "c = 2\n", "latin.py": "# \ufffd\n"}
    assert documents == expected
    assert list(documents) == list(expected)


def test_an_archive_is_read_as_the_folder_that_is_in_it(tmp_path):
    files = {"a/b.py": "b = 1\r\n", "a-c.py": b"# \xe4\n", "blank.py": " \n", "a.txt": "", "tests/d.py": "1"}
    folder = write(tmp_path / "folder", files)
    with zipfile.ZipFile(tmp_path / "python.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    documents = python_documents(tmp_path / "python.zip")
    assert documents == {"a/b.py": "b = 1\n", "a-c.py": "# \ufffd\n"}
    assert list(documents.items()) == list(python_documents(folder).items())


def test_the_standard_library_may_be_in_an_archive_as_in_a_browser(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "python.zip", "w") as archive:
        archive.writestr("hashlib.py", "x = 1\n")
    monkeypatch.setattr("hashlib.__file__", str(tmp_path / "python.zip" / "hashlib.py"))
    assert python_documents() == {"hashlib.py": "x = 1\n"}


@pytest.mark.parametrize("files", [{}, {"notes.txt": "x = 1"}, {"tests/a.py": "x = 1"}], ids=["none", "txt", "tests"])
def test_a_folder_without_python_files_is_named(tmp_path, files):
    with pytest.raises(FileNotFoundError, match=r"no Python source files under .*folder"):
        python_documents(write(tmp_path / "folder", files))


PARAGRAPHS = st.builds(lambda n, end: "a" * n + end, st.integers(0, 2500), st.sampled_from(["", " ", "\n", "\n\n\n"]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(PARAGRAPHS, max_size=8).map("\n\n".join))
def test_load_text_groups_paragraphs_and_loses_nothing(tmp_path_factory, text):
    if not text.strip():
        return
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    path.write_text(text, encoding="utf-8")
    documents = load_text(path)
    assert list(documents) == [f"novel.txt#{i}" for i in range(len(documents))]
    assert "".join(documents.values()).rstrip() == text.rstrip()
    for document in list(documents.values())[:-1]:
        assert len(document) >= 2000
        head = document.removesuffix("\n\n").rpartition("\n\n")[0]
        assert len(head) < 2000, "a document goes on after it is long enough"


def test_a_byte_order_mark_is_no_text(tmp_path):
    (path := tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfSome\r\nwords")
    assert "".join(load_text(path).values()).strip() == "Some\nwords"


def test_without_an_end_token_nothing_stands_between_documents():
    class Endless(ByteTokenizer):
        eos_token_id = None

    assert TextData({"a": "xy", "b": "z"}, Endless(), 2, 1).tokens.tolist() == list(b"xyz")


def test_load_text_reads_utf8(tmp_path):
    (path := tmp_path / "ä.txt").write_text("naïve — 数\n", encoding="utf-8")
    assert [text.strip() for text in load_text(str(path)).values()] == ["naïve — 数"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        pytest.param(None, FileNotFoundError, r"my\.txt does not exist", id="missing"),
        pytest.param("folder", ValueError, r"the folder .*my\.txt has no text to learn from", id="directory"),
        pytest.param(b"", ValueError, r"my\.txt is empty", id="empty"),
        pytest.param(b" \n\t\n\n ", ValueError, r"my\.txt is empty", id="whitespace"),
        pytest.param(b"abc\xff\xfe", ValueError, r"my\.txt is not UTF-8 text.* byte 3", id="not-utf8"),
        pytest.param("text".encode("utf-16"), ValueError, r"my\.txt is not UTF-8 text", id="utf16"),
    ],
)
def test_load_text_says_what_is_wrong_with_a_file(tmp_path, content, error, message):
    path = tmp_path / "my.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        load_text(path)


DOCUMENTS = {f"package/module_{i}.py": f"x = {i}\n" for i in range(4000)}


def test_the_parts_are_disjoint_and_complete():
    parts = split_documents(DOCUMENTS)
    assert list(parts) == ["train", "validation", "test"]
    assert sum(map(len, parts.values())) == len(DOCUMENTS)
    assert {name: text for part in parts.values() for name, text in part.items()} == DOCUMENTS


def test_a_documents_part_does_not_depend_on_the_others_nor_on_its_text():
    few = dict(list(DOCUMENTS.items())[1000:2000])
    whole, parts = split_documents(DOCUMENTS), split_documents(dict.fromkeys(few, "changed"))
    for name, part in parts.items():
        assert set(part) == set(whole[name]) & set(few)


@pytest.mark.parametrize("held_out", [0.0, 0.05, 0.1, 0.3])
def test_the_held_out_parts_have_their_share(held_out):
    """Within four standard deviations of a binomial count."""
    parts = split_documents(DOCUMENTS, held_out)
    n = len(DOCUMENTS)
    for name in ("validation", "test"):
        assert abs(len(parts[name]) - held_out * n) <= 4 * math.sqrt(n * held_out * (1 - held_out))


@pytest.mark.parametrize(("count", "held_out"), [(1, 0.1), (2, 0.1), (40, 0.25)])
def test_the_end_of_the_text_is_held_out_from_a_line_on(count, held_out):
    documents = {f"part{i}": f"Line {i} of the text, which goes on for a while.\n" * 7 for i in range(count)}
    parts = hold_out_last(documents, held_out)
    (train,), (test,) = (list(part.values()) for part in parts.values())
    whole = "".join(documents.values())
    assert train + test == whole
    assert train.endswith("\n")
    assert held_out * len(whole) <= len(test) < held_out * len(whole) + 60


def test_text_without_lines_is_cut_where_the_share_says():
    text = "".join(map(chr, range(32, 122)))
    parts = hold_out_last({"a": text}, 0.2)
    (train,), (test,) = (list(part.values()) for part in parts.values())
    assert train + test == text
    assert len(test) == pytest.approx(0.2 * len(text), abs=1)


def test_a_file_name_that_is_not_utf8_is_placed_too():
    """Such a name reaches Python with a surrogate in the place of the odd byte."""
    documents = {"caf\udce9.py": "x = 1\n"}
    assert len(fingerprint(documents)) == 64
    assert sum(map(len, split_documents(documents).values())) == 1


def test_the_fingerprint_sees_every_name_and_text_and_no_order():
    base = {"a": "one", "b": "two"}
    others = [
        {"a": "one", "b": "two "},
        {"a": "one", "c": "two"},
        {"a": "two", "b": "one"},
        {"a": "onet", "b": "wo"},
        {"ao": "ne", "b": "two"},
        {"a": "onebtwo"},
        {"a": "one"},
        {"a": "one", "b": "two", "c": ""},
        {},
    ]
    assert fingerprint(dict(reversed(base.items()))) == fingerprint(base)
    assert len({fingerprint(documents) for documents in (base, *others)}) == len(others) + 1


def test_the_tokens_are_the_documents_with_an_end_after_each():
    data = TextData({"b": "xy", "a": "ä"}, ByteTokenizer(), 2, 1)
    assert data.tokens.tolist() == [*b"xy", 0, *"ä".encode(), 0]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, np.uint16), (65_536, np.uint16), (65_537, np.int64)])
def test_tokens_are_held_small_and_handed_out_as_int64(vocab_size, dtype):
    class Tokenizer:
        eos_token_id = 0

        def encode(self, text):
            return [1, 2, self.vocab_size - 1]

    Tokenizer.vocab_size = vocab_size
    data = TextData({"a": "", "b": ""}, Tokenizer(), 4, 3)
    assert data.tokens.dtype == dtype
    assert {array.dtype for array in (*data.batch(0, 0).values(), data.windows())} == {np.dtype(np.int64)}
    assert data.windows().tolist() == [[1, 2, vocab_size - 1, 0]] * 2


@pytest.mark.parametrize(("length", "count"), [(1, 27), (4, 6), (9, 3), (26, 1), (27, 1)])
def test_windows_follow_one_another_without_overlap(length, count):
    windows = byte_data("abcdefghijklmnopqrstuvwxyz", length).windows()
    assert windows.shape == (count, length)
    expected = b"abcdefghijklmnopqrstuvwxyz\0"[: count * length]
    assert bytes(windows.reshape(-1).tolist()) == expected


def test_a_batch_is_windows_of_the_text_from_first_to_last():
    text = "abcdefghijklmnopqrst"
    data, stream = byte_data(text, 5, 16), text.encode() + b"\0"
    starts = set()
    for step in range(40):
        batch = data.batch(0, step)
        assert set(batch) == {"input_ids", "labels"}
        assert batch["input_ids"].shape == (16, 5)
        np.testing.assert_array_equal(batch["labels"], batch["input_ids"])
        for row in batch["input_ids"]:
            start = stream.find(bytes(row.tolist()))
            assert start >= 0, f"{row} is nowhere in the text"
            starts.add(start)
    assert starts == set(range(len(stream) - 5 + 1))


def test_a_batch_is_decided_by_seed_and_step():
    text = "".join(map(chr, np.random.default_rng(0).integers(32, 127, 5000)))
    data, again = byte_data(text, 8), byte_data(text, 8)
    batches = {}
    for seed in range(4):
        for step in range(6):
            batches[seed, step] = data.batch(seed, step)["input_ids"].tobytes()
    for (seed, step), batch in reversed(batches.items()):
        assert again.batch(seed, step)["input_ids"].tobytes() == batch
    assert len(set(batches.values())) == len(batches)


def test_a_batch_can_be_changed_without_changing_the_data():
    data = byte_data("abcdefgh", 4)
    before = data.tokens.copy()
    data.batch(0, 0)["input_ids"][:] = 7
    data.windows()[:] = 7
    np.testing.assert_array_equal(data.tokens, before)


@pytest.mark.parametrize("documents", [{}, {"a": "12345678"}], ids=["none", "one-short"])
def test_too_little_text_is_refused_at_once(documents):
    found = sum(len(text) + 1 for text in documents.values())
    with pytest.raises(ValueError, match=rf"validation has {found} tokens, fewer than one window of 10"):
        TextData(documents, ByteTokenizer(), 10, 4, "validation")


def test_text_for_one_window_is_enough():
    data = byte_data("123456789", 10)
    assert len(data.windows()) == 1
    assert (data.batch(0, 0)["input_ids"] == data.windows()[0]).all()


def test_data_says_how_much_of_it_there_is():
    text = TextData({"a": "x" * 70}, ByteTokenizer(), 16, 2)
    assert repr(text) == "TextData(4 windows of 16 tokens, in batches of 2)"
    examples = ExampleData([{"text": "hello"}, {"text": "hello, hello"}], ByteTokenizer(), 32, 2)
    assert repr(examples) == "ExampleData(2 rows of up to 16 tokens, in batches of 2)"
