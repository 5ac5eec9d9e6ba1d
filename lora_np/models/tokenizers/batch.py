"""What a call of a tokenizer returns: rows of ids with their mask, padded or not, as lists or as arrays."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

SIDES = ("left", "right")
PADDINGS = (False, True, "longest", "max_length")
FILLERS = {"attention_mask": 0, "offset_mapping": (0, 0), "assistant_masks": 0}  # what stands in padding; ids: pad_id


class Encoding(Protocol):
    """A text that was encoded: `ids`, and `offsets`, for each of them (begin, end) of its characters in the text."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def offsets(self) -> list[tuple[int, int]]: ...


class BatchEncoding(dict[str, Any]):
    """{"input_ids", "attention_mask", ...}, which are attributes as well: `.input_ids`. `model(**encoding)` works."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} in this encoding, it has {', '.join(self)}") from None


class Form(NamedTuple):
    """How rows are returned: the options of a tokenizer's call that concern it."""

    padding: bool | str
    max_length: int | None
    side: str
    return_tensors: str | None

    def check(self, truncation: bool) -> None:
        """ValueError for options that are none, that contradict each other or would do nothing."""
        check_lengths(self.padding, truncation, self.max_length)
        if self.return_tensors not in (None, "np"):
            raise ValueError(
                f"return_tensors={self.return_tensors!r}: this package has lists (None) and NumPy arrays ('np')"
            )
        if self.side not in SIDES:
            raise ValueError(f"padding_side must be 'left' or 'right', not {self.side!r}")

    def batch(self, columns: dict[str, list[list[Any]]], pad_id: int | None) -> BatchEncoding:
        """{name: rows}, one row for each text, in this form. ValueError if rows of unlike lengths should be an array,
        or if there is nothing to fill them with."""
        rows = columns["input_ids"]
        lengths = [len(row) for row in rows]
        length = max(*lengths, (self.max_length or 0) if self.padding == "max_length" else 0)
        if self.padding and min(lengths) < length:
            if pad_id is None:
                raise ValueError(
                    "this tokenizer has neither a pad_token nor an eos_token: set tokenizer.pad_token to a token"
                )
            fillers = {"input_ids": pad_id, **FILLERS}
            columns = {
                name: [self._filled(row, length, fillers[name]) for row in rows] for name, rows in columns.items()
            }
        elif self.return_tensors and min(lengths) < length:
            raise ValueError(
                f"the texts give rows of {min(lengths)} to {length} tokens, which make no array: pass padding=True"
            )
        if self.return_tensors:
            return BatchEncoding({name: np.array(rows, np.int64) for name, rows in columns.items()})
        return BatchEncoding(columns)

    def _filled(self, row: list[Any], length: int, filler: Any) -> list[Any]:
        more = [filler] * (length - len(row))
        return [*row, *more] if self.side == "right" else [*more, *row]


def check_lengths(padding: bool | str, truncation: bool, max_length: int | None) -> None:
    """Refuse options that contradict each other or would do nothing."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be True, False, 'longest' or 'max_length', not {padding!r}")
    if not isinstance(truncation, bool):
        raise ValueError(f"truncation must be True or False, not {truncation!r}")
    used = truncation or padding == "max_length"
    if used and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
        raise ValueError(f"truncation and padding='max_length' need max_length, a positive integer, not {max_length!r}")
    if max_length is not None and not used:
        raise ValueError(f"max_length={max_length} does nothing without truncation=True or padding='max_length'")


def overlapping(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """For each token, whether it has a character of one of the `spans`: (begin, end) in the text.

    A token reaches from where the one before it ended: tokenizers leave spaces out of their offsets.
    """
    begins, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    begins = np.minimum(begins, np.concatenate([[0], np.maximum.accumulate(ends)])[: len(ends)])
    inside = np.zeros(len(ends), bool)
    for begin, end in spans:
        inside |= (begins < end) & (ends > begin)
    return inside.tolist()


def marks_answers(template: str | None) -> bool:
    """Whether a chat template marks with {% generation %} what the model writes."""
    return template is not None and re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None
