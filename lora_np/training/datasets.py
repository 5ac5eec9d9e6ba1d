"""Data sets of other libraries as rows, known by what they have: column names, and rows by number.

`datasets.Dataset` of Hugging Face is such a one; that package is not needed here. So is a list of dicts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from .records import EXPECTED, as_messages

ROWS = "a list of dicts, or a data set with column_names and rows by number, such as Hugging Face's"
KINDS = ({"messages"}, {"prompt", "completion"}, {"text"})  # the first that is there is taken
TOKENS = ("input_ids", "labels", "attention_mask")  # of rows that are tokenised already
TOKENIZE = "tokenize it first, or give Trainer the tokenizer, processing_class=tokenizer: that reads texts"
LABELS = ("label", "labels")  # what is said of a whole row, for a classifier


def is_dataset(data: Any) -> bool:
    """Does this have named columns?"""
    return hasattr(data, "column_names") and (hasattr(data, "__getitem__") or isinstance(data, Iterable))


def rows_of(data: Any, name: str = "the data set") -> list[dict[str, Any]]:
    """All rows of a data set, or of a list of dicts, as dicts.

    ValueError for several data sets in one, of which one should be chosen; TypeError, beginning with `name`, for what
    has no rows.
    """
    if is_dataset(data):
        if isinstance(data.column_names, Mapping):
            parts = ", ".join(map(repr, data.column_names))
            raise ValueError(f"{name} has several parts: choose one of {parts}, as dataset['train']")
        if hasattr(data, "with_format"):  # rows of plain lists and strings, whatever the user reads it as
            data = data.with_format(None)
        numbered = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        return [dict(data[i]) for i in range(len(data))] if numbered else [dict(row) for row in data]
    by_number = hasattr(data, "__len__") and hasattr(data, "__getitem__")  # as torch's Dataset has them
    if isinstance(data, type | str | bytes | Mapping) or not (by_number or isinstance(data, Iterable)):
        raise TypeError(f"{name} should be {ROWS}, not {type(data).__name__}")
    if hasattr(data, "columns"):
        raise TypeError(f"{name} should be {ROWS}; of a table of pandas give table.to_dict('records')")
    rows = list(data) if isinstance(data, Iterable) else [data[i] for i in range(len(data))]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise TypeError(f"{name}: row {number} should be a dict, not {type(row).__name__}")
    return [dict(row) for row in rows]


def expect_tokens(rows: Iterable[Mapping[str, Any]], name: str, fields: Iterable[str] = TOKENS[:1]) -> None:
    """ValueError, beginning with `name`, that names the first row which is not tokenised: a field of these is missing.

    It says which fields the row has, and what makes tokens of them.
    """
    for number, row in enumerate(rows, 1):
        if missing := [field for field in fields if field not in row]:
            raise ValueError(
                f"{name}: row {number} has the fields {', '.join(map(str, row)) or 'none'}, and no {missing[0]}: "
                + (TOKENIZE if missing[0] == "input_ids" else "a list as long as its input_ids, -100 for no target")
            )


def examples_of(data: Any, name: str = "the data set") -> Any:
    """The rows of a data set as examples (see examples.py); what is no data set, such as a list, as it is.

    Rows are read by the columns of one kind of example: messages, prompt and completion, text, or what other tools
    write (`as_messages`). Columns besides are left out. ValueError if there is no such kind.
    """
    if not is_dataset(data) and not hasattr(data, "columns"):
        return data
    found, rows = [], rows_of(data, name)
    if not rows:
        raise ValueError(f"{name} is empty: there is no row in it")
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        example = as_messages(row, where)
        if example is row:
            kind = next((kind for kind in KINDS if kind <= row.keys()), None)
            if kind is None and "input_ids" in row:
                raise ValueError(f"{where} has input_ids, it is tokenised already: give the data set to Trainer")
            if kind is None:
                raise ValueError(f"{where} has the columns {', '.join(row)}; expected are {EXPECTED}")
            example = {field: row[field] for field in row if field in kind | {"group"}}
        found.append(example)
    return found
