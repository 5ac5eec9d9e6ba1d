"""Files of examples, as tools write them: JSON lines, a JSON list, CSV and TSV, and the fields that they have there."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..storage import existing
from ..storage.mistaken import instead

TABLES = {".csv": ",", ".tsv": "\t"}
SEPARATORS = (";", "\t", ",", "|")
ENDINGS = (*TABLES, ".jsonl", ".ndjson", ".json")
LONGEST_CELL = 1 << 30  # characters; Python's csv stops at 131,072 unless it is told otherwise
LAYOUTS = (  # the fields of chats with one question: what is asked, what may be added to that, what is answered
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("instruction", "context", "response"),
    ("question", "context", "answer"),
)
EXPECTED = (
    "text, or prompt and completion, or messages (and group, if you like); files may also have instruction, input and "
    "output, or question and answer, or conversations"
)
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
QUOTES = "a cell that begins with a quote ends with one, and a quote inside of it is doubled"
PACKED = {  # how files begin, in lower case, that hold texts, but are none, beside those that are known
    b"pk\x03\x04": "it is a zip archive, as .xlsx and .docx are: unpack it, or save it as CSV or text",
    b"bzh": "it is packed with bzip2: unpack it first",
    b"\xfd7zxz": "it is packed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "it is packed with zstd: unpack it first",
    b"par1": "it is a Parquet table: save it as JSONL or CSV",
    b"arrow1": "it is an Arrow table: save it as JSONL or CSV",
    b"%pdf-": "it is a PDF: save its text",
}
Record = tuple[str, Any]  # where it stands (file and line or number), what stands there


def decoded(content: bytes, where: str) -> str:
    """The text of UTF-8 bytes, without a byte order mark. ValueError, beginning with `where`, if they are no such."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{where} is not UTF-8 text but UTF-16: save it as UTF-8")
    problem = "it has zero bytes, as UTF-16 has; save it as UTF-8"
    try:
        if b"\0" not in content:
            return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
    raise ValueError(f"{where} is not UTF-8 text: {instead(content[:99], PACKED) or problem}")


def holds_examples(path: str | PathLike[str]) -> bool:
    """Whether a file holds examples, not running text: by its ending, or because it begins as JSON does."""
    if Path(path).suffix.lower() in ENDINGS:
        return True
    with open(existing(path), "rb") as file:
        return re.match(rb'(\xef\xbb\xbf)?\s*(\[\s*\{|\{\s*")', file.read(4096)) is not None


def read_records(path: str | PathLike[str]) -> Iterator[Record]:
    """Each example of a file, with where it stands.

    `.csv` and `.tsv` are tables with the names of the fields in the first line. All else is JSON: a list of objects, or
    one object per line. FileNotFoundError if there is no such file; ValueError, with the place, for what is neither.
    """
    path = existing(path)
    if path.suffix.lower() in TABLES:
        return _table(path, TABLES[path.suffix.lower()])
    with open(path, "rb") as file:
        beginning = file.read(4096)
    if b"\0" in beginning or beginning[:2] in (b"\xff\xfe", b"\xfe\xff"):
        decoded(beginning, str(path))  # says what it is
    if what := instead(beginning, PACKED):
        raise ValueError(f"{path} holds no examples: {what}")
    whole = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    return _list(path) if whole else _lines(path)


def _table(path: Path, separator: str) -> Iterator[Record]:
    text = io.StringIO(decoded(path.read_bytes(), str(path)), newline="")
    lines = csv.DictReader(text, delimiter=separator, strict=True)  # else a quote that nobody closes takes all the rest
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        _check_separator(path, lines.fieldnames or (), separator)
        for row in lines:
            where = f"{path}, line {lines.line_num}"
            if None in row or None in row.values():
                names = ", ".join(lines.fieldnames or ())
                raise ValueError(f"{where} has other columns than the first line, which names {names}")
            yield where, row
    except csv.Error as error:
        where = f"{path}, line {lines.line_num + 1}"  # the last row that was read ends on the line before
        raise ValueError(f"{where} is no row of a table: {error} ({QUOTES})") from None
    finally:
        csv.field_size_limit(before)


def _check_separator(path: Path, names: Sequence[str], separator: str) -> None:
    """ValueError if the first line has one name, which another separator would make several of."""
    if again := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise ValueError(f"{path}, line 1 names the column {again[0]!r} twice: which one counts?")
    (name, *others) = [*names] or [""]
    other = next((other for other in SEPARATORS if other in name and other != separator), None)
    if other and not others:
        raise ValueError(
            f"{path}, line 1 is {name!r:.80}, separated by {other!r}: a {path.suffix} file should be by {separator!r}"
        )


def _list(path: Path) -> Iterator[Record]:
    values = parse(decoded(path.read_bytes(), str(path)), str(path), "the file should be one JSON list of objects")
    for number, value in enumerate(values, 1):
        yield f"{path}, example {number}", value


def _lines(path: Path) -> Iterator[Record]:
    with open(path, "rb") as file:  # bytes: they are cut at line feeds only, and a line that is no UTF-8 has a number
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, parse(line, where, "each line should be one JSON object")


def parse(content: str | bytes, where: str, expected: str) -> Any:
    """The value of some JSON; ValueError, beginning with `where`, if it is none."""
    try:
        return json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{where} is not JSON: {error} ({expected})") from None


def as_messages(record: Any, where: str) -> Any:
    """A record with the fields of other tools as {"messages": ...}; any other record as it is.

    instruction (and input) and output, question and answer: one question, with what is added to it behind a blank
    line. conversations: ShareGPT's [{"from": "human" or "gpt", "value"}]. Fields besides, such as a category, are left
    out.
    """
    if not isinstance(record, dict):
        return record
    kept = {k: v for k, v in record.items() if k == "group"}
    if isinstance(record.get("conversations"), list):
        turns = [_turn(turn, f"{where}: turn {i}") for i, turn in enumerate(record["conversations"], 1)]
        return {"messages": turns, **kept}
    if layout := _layout(record):
        asked, more, answered = layout
        added = record.get(more)  # null where there is nothing to add
        texts = {asked: record[asked], more: "" if added is None else added, answered: record[answered]}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"{where}: {name} should be a string, got {text!r:.80}")
        question = "\n\n".join(texts[name] for name in (asked, more) if texts[name].strip())
        user, assistant = ("user", question), ("assistant", texts[answered])
        return {"messages": [{"role": role, "content": text} for role, text in (user, assistant)], **kept}
    return record


def _layout(record: dict[str, Any]) -> tuple[str, str, str] | None:
    """The layout of `LAYOUTS` that a record has, or None: one of which it has all fields goes first."""
    found = [layout for layout in LAYOUTS if {layout[0], layout[2]} <= record.keys()]
    return next((layout for layout in found if layout[1] in record), found[0] if found else None)


def read_fields(path: str | PathLike[str]) -> str:
    """A line about the fields of a file's first example: which of them are learnt from, and as what."""
    where, record = next(iter(read_records(path)), (str(path), {}))
    if not isinstance(record, dict) or not record:
        return f"{path} has no fields"
    example = as_messages(record, where)
    if example is record:
        return f"Fields read from {Path(path).name}: {', '.join(record)}"
    known = {"group", *(("conversations",) if "conversations" in record else _layout(record) or ())}
    read, others = [name for name in record if name in known], [name for name in record if name not in known]
    left = f"; left out: {', '.join(others)}" if others else ""
    return f"Fields read from {Path(path).name}: {', '.join(read)}, as messages{left}"


def _turn(turn: Any, where: str) -> Any:
    """One turn of a ShareGPT conversation as a message."""
    if isinstance(turn, dict) and turn.keys() == {"role", "content"}:
        return turn
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise ValueError(f'{where} should have the fields "from" and "value", got {turn!r:.80}')
    if not isinstance(turn["from"], str) or turn["from"] not in SPEAKERS:
        raise ValueError(f"{where} is from {turn['from']!r}; known are {', '.join(SPEAKERS)}")
    return {"role": SPEAKERS[turn["from"]], "content": turn["value"]}
