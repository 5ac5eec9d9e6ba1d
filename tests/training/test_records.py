"""Files of examples in the forms in which they are found, and what is said of others."""

import csv
import gzip
import json

import pytest

from lora_np.training import load_examples, load_text
from lora_np.training.records import holds_examples, read_fields

PAIRS = [{"prompt": 'Wörter, "quoted"\nand a line', "completion": " zwei"}, {"prompt": "b", "completion": "c;\td"}]
ASKED = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]


def file(tmp_path, content, name="my.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def table(tmp_path, rows, name="my.csv", encoding="utf-8"):
    with open(tmp_path / name, "w", newline="", encoding=encoding) as out:
        writer = csv.DictWriter(out, rows[0], delimiter="\t" if name.endswith("tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["my.csv", "my.tsv", "MY.CSV"])
def test_a_table_is_read(tmp_path, name, encoding):
    assert load_examples(table(tmp_path, PAIRS, name, encoding)) == PAIRS


def test_a_cell_may_be_long(tmp_path):
    rows, before = [{"text": "word " * 100_000}], csv.field_size_limit()
    assert load_examples(table(tmp_path, rows)) == rows
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize("name", ["my.json", "my.jsonl", "my.txt", "data"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_in_json_is_read_whatever_the_ending(tmp_path, name, indent, bom):
    path = file(tmp_path, bom + json.dumps(PAIRS, indent=indent).encode(), name)
    assert load_examples(path) == PAIRS
    assert holds_examples(path)


@pytest.mark.parametrize("name", ["my.json", "my.ndjson", "my.txt", "data"])
def test_json_lines_are_read_whatever_the_ending(tmp_path, name):
    path = file(tmp_path, "".join(json.dumps(pair) + "\n" for pair in PAIRS), name)
    assert load_examples(path) == PAIRS
    assert holds_examples(path)


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"instruction": "Add.", "input": "1 + 2", "output": "3"}, None),
        ({"instruction": "Add.", "input": "", "output": "3"}, ASKED),
        ({"instruction": "Add.", "output": "3"}, ASKED),
        ({"instruction": "Add.", "context": " ", "response": "3"}, ASKED),
        ({"question": "Add.", "answer": "3"}, ASKED),
        ({"id": 7, "conversations": [{"from": "human", "value": "Add."}, {"from": "gpt", "value": "3"}]}, ASKED),
        ({"conversations": ASKED}, ASKED),
    ],
)
def test_the_fields_of_other_tools_are_a_conversation(tmp_path, record, messages):
    messages = messages or [{"role": "user", "content": "Add.\n\n1 + 2"}, ASKED[1]]
    assert load_examples(file(tmp_path, json.dumps(record))) == [{"messages": messages}]
    grouped = {**record, "group": "g"}
    assert load_examples(file(tmp_path, json.dumps([grouped]))) == [{"messages": messages, "group": "g"}]


def test_a_system_prompt_comes_with_a_conversation(tmp_path):
    turns = [("system", "Be brief."), ("human", "Hi"), ("gpt", "Ho"), ("human", "So?"), ("gpt", "No.")]
    record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    (example,) = load_examples(file(tmp_path, json.dumps(record)))
    assert [m["role"] for m in example["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in example["messages"]] == [text for _, text in turns]


def talk(*turns):
    return json.dumps({"conversations": list(turns)})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,text2\na,b\n", r"a\.csv, line 2 has the fields text, text2; expected are text, or prompt"),
        (
            "a.csv",
            "prompt;completion\na;b\n",
            "line 1 is 'prompt;completion', separated by ';': a .csv file should be by ','",
        ),
        (
            "a.tsv",
            "prompt,completion\na,b\n",
            "line 1 is 'prompt,completion', separated by ',': a .tsv file should be by",
        ),
        ("a.csv", "prompt,completion\na\n", "line 2 has other columns than the first line, which names prompt, compl"),
        ("a.csv", "prompt,completion\na,b,c\n", "line 2 has other columns"),
        ("a.csv", "prompt,completion\na,\n", "line 2: completion is empty"),
        ("a.csv", 'text\n"a\nb\nc\n', r"a\.csv, line 2 is no row of a table: unexpected end of data .a cell"),
        ("a.tsv", 'text\n"a" b\n', "line 2 is no row of a table: '\\t' expected after"),
        ("a.csv", "text,group,text\na,b,c\n", r"a\.csv, line 1 names the column 'text' twice"),
        ("a.csv", "prompt, completion\na,b\n", "line 2 has the fields ' completion', prompt; expected"),
        (
            "a.jsonl",
            gzip.compress(b'{"text": "a"}', mtime=0),
            r"a\.jsonl is not UTF-8 text: it is packed with gzip: unpack it",
        ),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0x1010101), "it is packed with gzip: unpack it first"),
        ("a.csv", b"PK\x03\x04\0", r"a\.csv is not UTF-8 text: it is a zip archive, as \.xlsx"),
        ("a.parquet", b"PAR1\x15\0", "it is a Parquet table: save it as JSONL or CSV"),
        ("a.csv", "", r"a\.csv is empty"),
        ("a.json", '{"data": [{"text": "a"}]}', "line 1 has the fields data; expected are text, or prompt and"),
        ("a.json", '[{"text": "a"}, 3]', "example 2 should be a JSON object, not a int"),
        ("a.json", '[{"text": "a"}', r"a\.json is not JSON: .* one JSON list of objects"),
        ("a.json", "[" * 100_000, r"a\.json is not JSON"),
        ("a.jsonl", '{"chosen": "a", "rejected": "b"}', "has the fields chosen, rejected; expected"),
        ("a.jsonl", '{"instruction": 3, "output": "b"}', "line 1: instruction should be a string, got 3"),
        ("a.jsonl", '{"question": "a"}', "has the fields question; expected"),
        ("a.jsonl", talk({"from": "tool", "value": "x"}), "turn 1 is from 'tool'; known are human, user, gpt"),
        ("a.jsonl", talk({"from": ["x"], "value": "x"}), r"turn 1 is from \['x'\]; known"),
        ("a.jsonl", talk("Hi"), 'turn 1 should have the fields "from" and "value", got .Hi'),
        ("a.jsonl", talk({"from": "human", "value": None}), "message 1: content should be a string, got None"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), r"a\.jsonl is not UTF-8 text but UTF-16: save it as UTF-8"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16-le"), r"a\.jsonl is not UTF-8 text: it has zero bytes"),
        ("a.csv", "text\na\n".encode("utf-16"), r"a\.csv is not UTF-8 text but UTF-16"),
        ("a.csv", b"text\n\xe4\n", r"a\.csv is not UTF-8 text: .* byte 5"),
        ("a.json", '[{"text": "a"}]'.encode("utf-16"), r"a\.json is not UTF-8 text but UTF-16"),
    ],
)
def test_what_is_no_file_of_examples_is_said(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_examples(file(tmp_path, content, name))


@pytest.mark.parametrize("start", ['[{"text"', '{"text"', '\n [ {"a"', '{ "a"', '\ufeff{"a"'])
def test_what_begins_as_json_is_no_prose(tmp_path, start):
    path = file(tmp_path, start + "and so on", "my.txt")
    assert holds_examples(path)
    with pytest.raises(ValueError, match=r"my\.txt holds examples, not running text"):
        load_text(path)


@pytest.mark.parametrize("start", ["[1] A note", "{braces}", "[a", "", "(", "\ufeffA"])
def test_what_does_not_is(tmp_path, start):
    path = file(tmp_path, start + " and so on", "my.txt")
    assert not holds_examples(path)
    assert "".join(load_text(path).values()).strip() == (start + " and so on").strip("\ufeff").strip()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_prose_in_utf16_is_named(tmp_path, encoding):
    with pytest.raises(ValueError, match=r"my\.txt is not UTF-8 text.*UTF-16.* save it as UTF-8"):
        load_text(file(tmp_path, "Some words".encode(encoding), "my.txt"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "a.csv",
            "instruction,input,output,category\nAdd,1 2,3,x\n",
            "instruction, input, output, as messages; left out: category",
        ),
        ("a.tsv", "question\tanswer\nq\ta\n", "question, answer, as messages"),
        ("a.json", '[{"instruction": "q", "input": null, "output": "a"}]', "instruction, input, output, as messages"),
        ("a.json", '[{"id": 1, "conversations": []}]', "conversations, as messages; left out: id"),
        ("a.jsonl", '{"prompt": "q", "completion": "a"}', "prompt, completion"),
    ],
)
def test_a_line_says_which_fields_are_read(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    assert read_fields(tmp_path / name) == f"Fields read from {name}: {line}"


def test_null_adds_nothing_to_an_instruction(tmp_path):
    (tmp_path / "a.json").write_text('[{"instruction": "q", "input": null, "output": "a", "category": 3}]')
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert load_examples(tmp_path / "a.json") == [{"messages": messages}]


def test_the_layout_that_has_all_fields_goes_first(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "q", "context": "c", "response": "a", "category": "x"}')
    assert load_examples(tmp_path / "a.jsonl")[0]["messages"][0]["content"] == "q\n\nc"
