"""Texts with labels: files of them, and batches that a classifier is trained on.

A file is a table or a list of records (records.py): one column holds the texts and another the names of their classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from ..autograd import no_grad
from ..nn import Module, evaluating
from .data import hashed_fraction
from .order import rows_of_step
from .protocols import Array, Batch, Tokenizer
from .records import read_records

TEXT_NAMES = ("text", "sentence", "content", "review", "comment", "message", "tweet", "document", "body", "input")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "output", "rating")
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Labelled:
    """Texts and the numbers of their classes, whose names are sorted: by number if all are whole numbers.

    columns   the names of the columns with the texts and with the labels
    """

    texts: list[str]
    labels: list[int]
    names: list[str]
    columns: tuple[str, str] = ("text", "label")

    def __str__(self) -> str:
        counts = Counter(self.labels)
        shown = ", ".join(f"{name} ({counts[number]})" for number, name in enumerate(self.names[:10]))
        more = f" and {len(self.names) - 10} more" if len(self.names) > 10 else ""
        text, label = self.columns
        return f"texts in {text!r}, labels in {label!r}; {len(self.names)} classes: {shown}{more}"

    def rows(self, numbers: Sequence[int]) -> "Labelled":
        """These rows alone, with the same classes."""
        texts, labels = [self.texts[i] for i in numbers], [self.labels[i] for i in numbers]
        return Labelled(texts, labels, self.names, self.columns)


def load_labelled(path: str | PathLike[str]) -> Labelled:
    """The texts and labels of a file: .csv or .tsv with names in the first line, .jsonl, or a .json list.

    Which column holds what, their names say (`TEXT_NAMES`, `LABEL_NAMES`, in upper or lower case); of two columns it is
    enough to know one. FileNotFoundError if there is no such file; ValueError, with the place, if it cannot be read, if
    its columns are not known, if a text or a label is empty, or if there is but one class or far too many.
    """
    records = list(read_records(path))
    if not records:
        raise ValueError(f"{path} is empty: there is no text in it")
    text, label = columns = _columns(records, path)
    texts, labels = [], []
    for where, record in records:
        if not isinstance(record, dict) or not {text, label} <= record.keys():
            raise ValueError(f"{where} has no {text!r} and {label!r}, as the first has")
        texts.append(_text(record[text], f"{where}: {text}"))
        labels.append(_name(record[label], f"{where}: {label}"))
    names = _sorted(set(labels))
    if len(names) < 2:
        raise ValueError(f"{path}: all {len(labels)} labels in {label!r} are {names[0]!r}: nothing to tell apart")
    if len(names) > min(MOST_CLASSES, max(2, len(labels) // 2)):
        raise ValueError(
            f"{path}: {label!r} has {len(names)} different values in {len(labels)} rows, too many for classes"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return Labelled(texts, [numbers[name] for name in labels], names, columns)


def _columns(records: list[tuple[str, Any]], path: Any) -> tuple[str, str]:
    """The names of the columns with the texts and with the labels. ValueError if the first record doesn't tell them."""
    where, first = records[0]
    if not isinstance(first, dict):
        raise ValueError(f"{where} should be an object with a text and a label, got {first!r:.80}")
    known = {name.strip().lower(): name for name in first}
    text, label = (next((known[n] for n in names if n in known), None) for names in (TEXT_NAMES, LABEL_NAMES))
    others = [name for name in first if name not in (text, label)]
    if len(first) == 2 and len(others) == 1:
        text, label = text or others[0], label or others[0]
    if text is None or label is None:
        what = "texts" if text is None else "labels"
        wanted = ", ".join(TEXT_NAMES if text is None else LABEL_NAMES)
        raise ValueError(
            f"{path} has the columns {', '.join(map(repr, first))}; which holds the {what}? Rename it: {wanted}"
        )
    return text, label


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} should be a text, got {value!r:.80}")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{where} should be the name of a class, got {value!r:.80}")
    return str(value).strip()


def _sorted(names: set[str]) -> list[str]:
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def split_labelled(data: Labelled, held_out: float = 0.1, seed: int = 0) -> dict[str, Labelled]:
    """{"train", "validation"}: of each class about the share `held_out` is held out, chosen by a hash of the text.

    Equal texts are on the same side, and every class is learnt: one with a single text is not held out. ValueError if
    nothing can be held out.
    """
    held: set[str] = set()
    for number in range(len(data.names)):
        texts = {text for text, label in zip(data.texts, data.labels, strict=True) if label == number}
        in_order = sorted(texts, key=lambda text: hashed_fraction(f"{seed}:{text}"))
        held.update(in_order[: min(len(in_order) - 1, max(1, round(held_out * len(in_order))))])
    if not held:
        raise ValueError("nothing can be held out: no class has two different texts")
    sides: dict[str, list[int]] = {"train": [], "validation": []}
    for i, text in enumerate(data.texts):
        sides["validation" if text in held else "train"].append(i)
    return {side: data.rows(rows) for side, rows in sides.items()}


class LabelledData:
    """Texts as rows of tokens, with the numbers of their classes, in batches padded on the right.

    batch(seed, step)    {"input_ids" (B, T), "attention_mask" (B, T), "labels" (B,)}; see `rows_of_step`
    batches(batch_size)  every row once, for `evaluate`, rows of like length together
    tokens, offsets      all rows' ids, one after another, and where in these each row begins, and the last one ends
    cut                  how many texts were longer than `max_length` tokens, and lost their end
    """

    def __init__(
        self, data: Labelled, tokenizer: Tokenizer, max_length: int, batch_size: int, pad_token_id: int
    ) -> None:
        self.batch_size, self.pad_id, self.labels = batch_size, pad_token_id, np.array(data.labels, np.int64)
        whole = [tokenizer.encode(text) for text in data.texts]
        kept = [np.array(ids[:max_length] or [pad_token_id], np.int32) for ids in whole]
        self.cut, self.rows = sum(len(ids) > max_length for ids in whole), len(kept)
        self.tokens, self.offsets = np.concatenate(kept), np.cumsum([0, *map(len, kept)])

    def batch(self, seed: int, step: int) -> Batch:
        return self.padded(rows_of_step(seed, step, self.batch_size, self.rows))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        order = np.argsort(np.diff(self.offsets), kind="stable")
        for start in range(0, self.rows, batch_size):
            yield self.padded(order[start : start + batch_size])

    def padded(self, rows: Sequence[int] | Array) -> Batch:
        """The rows with these numbers, as a batch."""
        found = [self.tokens[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        shape = len(found), max(map(len, found))
        ids, mask = np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64)
        for i, tokens in enumerate(found):
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
        return {"input_ids": ids, "attention_mask": mask, "labels": self.labels[np.asarray(rows)]}


def predicted(model: Module, batch: Batch) -> Array:
    """The class (B,) with the highest score for each row of a batch, on the CPU; the model is not changed."""
    with no_grad(), evaluating():
        inputs = {name: array for name, array in batch.items() if name != "labels"}
        return model(**inputs).logits.numpy().argmax(axis=1)


def accuracy(model: Module, data: LabelledData, batch_size: int = 32) -> float:
    """The share of the rows whose class a classifier finds."""
    right = sum(int((predicted(model, batch) == batch["labels"]).sum()) for batch in data.batches(batch_size))
    return right / data.rows
