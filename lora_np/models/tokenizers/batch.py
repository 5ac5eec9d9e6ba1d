"""What a call of a tokenizer returns: rows of ids with their mask, padded or not, as lists or as arrays."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import to_device, to_numpy
from ...autograd.tensor import data
from .options import Form

# What stands in padding, besides the pad token's id; other columns are as long as they are.
FILLERS = {"attention_mask": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0), "token_type_ids": 0}
Columns = dict[str, list[Any]]  # {name: one value or row for each text}


class Encoding(Protocol):
    """A text that was encoded: `ids`, and `offsets`, for each of them (begin, end) of its characters in the text."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def offsets(self) -> list[tuple[int, int]]: ...

    @property
    def special_tokens_mask(self) -> list[int]: ...


class Joined:
    """Two encodings, one behind the other."""

    def __init__(self, first: Encoding, second: Encoding) -> None:
        self.ids = [*first.ids, *second.ids]
        self.offsets = [*first.offsets, *second.offsets]  # in its own text each
        self.special_tokens_mask = [*first.special_tokens_mask, *second.special_tokens_mask]


class Surrounded:
    """One encoding, or two, with special tokens around: `whole` is what the tokenizers library made of the `parts`.

    The offsets are those of the parts. A library that leaves spaces out of a token's offsets has done so already, and
    leaves out as many characters again.
    """

    def __init__(self, whole: Any, *parts: Encoding) -> None:
        self.ids, self.special_tokens_mask = whole.ids, whole.special_tokens_mask
        offsets = itertools.chain.from_iterable(part.offsets for part in parts)
        self.offsets = [(0, 0) if special else next(offsets) for special in whole.special_tokens_mask]


class BatchEncoding(dict[str, Any]):
    """{"input_ids", "attention_mask", ...}, which are attributes as well: `.input_ids`. `model(**encoding)` works."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r} in this encoding, it has {', '.join(self)}") from None

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """This encoding with its arrays on a device ("cpu", "cuda", "cuda:N"), as a model there reads them."""
        for name, value in self.items():
            if hasattr(value, "dtype"):
                self[name] = moved(value, str(device))
        return self


def moved(value: Any, device: str) -> Any:
    """An array or a Tensor on a device."""
    return Tensor(to_device(value.data, device)) if isinstance(value, Tensor) else to_device(value, device)


def batched(columns: Columns, form: Form, pad_id: int | None) -> BatchEncoding:
    """{name: rows}, one row for each text, in this form. ValueError if rows of unlike lengths should be an array, or if
    there is nothing to fill them with."""
    rows = columns["input_ids"]
    if form.padding and rows:
        width = max(map(len, rows)) if form.width is None else form.width
        columns = _padded(columns, -(-width // form.multiple) * form.multiple, form.side, pad_id)
    if not form.return_tensors:
        return BatchEncoding(columns)
    arrays = {name: _array(name, values) for name, values in columns.items()}
    return BatchEncoding({name: kept_as(form.return_tensors, array) for name, array in arrays.items()})


def kept_as(return_tensors: Any, array: Any) -> Any:
    """An array as itself, or as a Tensor where `return_tensors` is "pt"."""
    return Tensor(array) if getattr(return_tensors, "value", return_tensors) == "pt" else array


def _padded(columns: Columns, width: int, side: str, pad_id: int | None) -> Columns:
    """The columns of which we know what fills them, with no row below `width`."""
    short = [width - len(row) for row in columns["input_ids"]]
    if max(short) <= 0:
        return columns
    if pad_id is None:
        raise ValueError(
            "this tokenizer has neither a pad_token nor an eos_token: set tokenizer.pad_token to a token, or add one: "
            "tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
        )
    found = dict(columns)
    for name, filler in {"input_ids": pad_id, **FILLERS}.items():
        if name in columns:
            found[name] = [
                [*row, *more] if side == "right" else [*more, *row]
                for row, count in zip(columns[name], short, strict=True)
                for more in [[filler] * count]
            ]
    return found


def _array(name: str, rows: list[Any]) -> Any:
    """A column as an int64 array."""
    lengths = {len(row) for row in rows if isinstance(row, list | tuple)}
    if len(lengths) > 1 and name == "input_ids":
        raise ValueError(
            f"the texts give rows of {min(lengths)} to {max(lengths)} tokens, which make no array: pass padding=True"
        )
    if len(lengths) > 1:
        raise ValueError(f"{name} has rows of {min(lengths)} to {max(lengths)} numbers, which make no array: pad them")
    array = np.array(rows)
    return array if array.dtype.kind == "f" and array.size else array.astype(np.int64)


def columns_of(encodings: Any) -> tuple[Columns, bool, str | None]:
    """(columns, whether it is one text, "np" if it has arrays, "pt" if Tensors) of what should be padded: a dict, or a
    list of dicts.

    TypeError or ValueError if they have no input_ids, or not all the same names.
    """
    if isinstance(encodings, Mapping):
        found = dict(encodings)
    else:
        each = list(encodings)
        if not all(isinstance(one, Mapping) for one in each):
            raise TypeError("pad wants encodings, as the tokenizer's call returns them: a dict, or a list of dicts")
        if len({frozenset(one) for one in each}) > 1:
            raise ValueError("the encodings have different names: " + "; ".join(", ".join(one) for one in each[:9]))
        found = {name: [one[name] for one in each] for name in (each[0] if each else ())}
    if "input_ids" not in found:
        names = ", ".join(map(str, found)) or "nothing"
        raise ValueError(f"there are no input_ids in what should be padded, but {names}")
    samples = [rows if hasattr(rows, "dtype") else next(iter(rows), 0) for rows in found.values()]
    tensors = any(isinstance(one, Tensor) for one in samples)
    kind = "pt" if tensors else "np" if any(hasattr(one, "dtype") for one in samples) else None
    plain = {name: _as_list(rows) for name, rows in found.items()}
    one = bool(plain["input_ids"]) and not isinstance(plain["input_ids"][0], list | tuple)
    return ({name: [row] for name, row in plain.items()} if one else plain), one, kind


def _as_list(rows: Any) -> list[Any]:
    if hasattr(rows, "dtype"):
        return to_numpy(data(rows)).tolist()
    return [to_numpy(data(row)).tolist() if hasattr(row, "dtype") else row for row in rows]


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
