"""Rows of ids as one batch, under Transformers' names: what `Trainer` calls with the rows of a step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..expect import expect, expect_whole, wrong
from ..models.context import texts_by_position
from ..models.output import IGNORED
from .datasets import LABELS, TOKENS, expect_tokens
from .evaluation import are_of_rows
from .protocols import Array, Batch

FILL_UP = "give data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)"
READ = (*TOKENS, "position_ids", "seq_idx")  # what of a batch a model reads
INPUTS = tuple(name for name in READ if name != "labels")
Features = Sequence[Mapping[str, Any]]


class DataCollatorForLanguageModeling:
    """Rows filled up to one length, with labels that are the ids, and -100 where they are the pad token's.

    As in Transformers this leaves out real ends of text as well if `pad_token` is `eos_token`. `mlm` must be False:
    the models here write from left to right. Labels of the rows' own are not read: ValueError where they leave out
    tokens that are learnt here.
    """

    def __init__(
        self, tokenizer: Any, mlm: bool = False, pad_to_multiple_of: int | None = None, return_tensors: str = "np"
    ) -> None:
        if mlm:
            raise ValueError("mlm=True is for models that fill gaps; those here write from left to right: mlm=False")
        self.tokenizer, self.options = (
            tokenizer,
            {"pad_to_multiple_of": pad_to_multiple_of, "return_tensors": _arrays(return_tensors)},
        )

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Batch:
        rows = [row if isinstance(row, Mapping) else {"input_ids": row} for row in features]
        expect_tokens(rows, "features")
        pad = self.tokenizer.pad_token_id
        _expect_all_learnt(rows, pad)
        batch = _filled_up(self.tokenizer, rows, self.options)
        labels = batch["input_ids"].copy()
        labels[batch["attention_mask"] == 0 if pad is None else labels == pad] = IGNORED
        return {**batch, "labels": labels}


class DataCollatorForSeq2Seq:
    """Rows with labels, filled up to one length: the labels with `label_pad_token_id`. None where no row has labels."""

    def __init__(
        self,
        tokenizer: Any,
        model: Any = None,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        label_pad_token_id: int = IGNORED,
        return_tensors: str = "np",
    ) -> None:
        self.tokenizer, self.label_pad_token_id = tokenizer, label_pad_token_id
        self.options: dict[str, Any] = {
            "padding": padding,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
        }
        self.options["return_tensors"] = _arrays(return_tensors)

    def __call__(self, features: Features, return_tensors: str | None = None) -> dict[str, Any]:
        name = "label" if features and "label" in features[0] else "labels"
        given: list[Any] = [row.get(name) for row in features]
        learnt = any(labels is not None for labels in given)
        expect_tokens(features, "features", ("input_ids", name) if learnt else ("input_ids",))
        batch = _filled_up(self.tokenizer, features, self.options)
        if not learnt:
            return {**batch, "labels": None}
        multiple, longest = self.options["pad_to_multiple_of"] or 1, max(len(labels) for labels in given)
        full = self.options["padding"] == "max_length"
        most = self.options["max_length"] if full else None
        width = max(-(-(most or longest) // multiple) * multiple, batch["input_ids"].shape[1] if full else 0)
        if longest > width:
            raise ValueError(f"features: a row has {longest} labels, more than max_length = {most}")
        labels: Array = np.full((len(features), width), self.label_pad_token_id, np.int64)
        for row, filled in zip(given, labels, strict=True):
            own = _whole(row, "labels")
            filled[width - len(own) if self.tokenizer.padding_side == "left" else 0 :][: len(own)] = own
        return {**batch, "labels": labels}


class DataCollatorWithPadding:
    """Rows with a `label` each, or none, filled up to one length: what a classifier learns from."""

    def __init__(
        self,
        tokenizer: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "np",
    ) -> None:
        self.tokenizer = tokenizer
        self.options: dict[str, Any] = {"padding": padding, "max_length": max_length}
        self.options |= {"pad_to_multiple_of": pad_to_multiple_of, "return_tensors": _arrays(return_tensors)}

    def __call__(self, features: Features) -> Batch:
        expect_tokens(features, "features")
        return {**_filled_up(self.tokenizer, features, self.options), **_labels_of(features)}


class DataCollatorWithFlattening:
    """Rows of unequal lengths one behind the other, as one row without padding.

    The batch has seq_idx, the number of each token's row, so that no row sees another, and position_ids, which begin
    anew with each. The first token of each is not predicted: its label is `separator_id`, which is not learnt. Rows
    without labels learn their ids. The names are Transformers', whose batch has seq_idx if it is asked for; the model
    here needs it.
    """

    def __init__(
        self,
        return_position_ids: bool = True,
        separator_id: int = IGNORED,
        *,
        return_flash_attn_kwargs: bool = False,
        return_seq_idx: bool = True,
    ) -> None:
        if return_flash_attn_kwargs or not return_seq_idx:
            raise ValueError("what tells the rows apart here is seq_idx: leave out return_flash_attn_kwargs and it")
        if separator_id != IGNORED:
            raise ValueError(f"separator_id is the label that is not learnt, {IGNORED}; got {separator_id}")
        self.return_position_ids = return_position_ids

    def __call__(self, features: Features, return_tensors: str = "np") -> Batch:
        expect_tokens(features, "features")
        ids = [_whole(row["input_ids"], "input_ids") for row in features]
        given = [row["input_ids"] if row.get("labels") is None else row["labels"] for row in features]
        labels = [_whole(own, "labels") for own in given]
        for number, (row, own) in enumerate(zip(ids, labels, strict=True), 1):
            if len(row) != len(own):
                raise ValueError(f"features: row {number} has {len(row)} input_ids and {len(own)} labels")
            own[:1] = IGNORED
        batch = {"input_ids": np.concatenate(ids)[None], "labels": np.concatenate(labels)[None]}
        if self.return_position_ids:
            batch["position_ids"] = np.concatenate([np.arange(len(own)) for own in ids])[None]
        return {**batch, "seq_idx": np.repeat(np.arange(len(ids)), [len(own) for own in ids])[None]}


def _arrays(return_tensors):
    """A model that learns is given arrays, also where Tensors are asked for."""
    return "np" if return_tensors == "pt" else return_tensors


def _whole(numbers: Any, name: str) -> Array:
    """Whole numbers as an array of their own. TypeError for others, which would be rounded."""
    array = np.asarray(numbers)
    if array.size and array.dtype.kind not in "iub":
        raise TypeError(wrong(numbers, f"features: {name}", "whole numbers"))
    return array.astype(np.int64)


def _filled_up(tokenizer: Any, rows: Features, options: Mapping[str, Any]) -> Batch:
    """What a model reads of rows, but for their labels, filled up to one length."""
    return dict(tokenizer.pad([{k: row[k] for k in INPUTS if k in row} for row in rows], **options))


def _expect_all_learnt(rows: Features, pad: int | None) -> None:
    """ValueError where a row's own labels leave out tokens: a prompt would be learnt, and nobody be told."""
    for number, row in enumerate(rows, 1):
        if row.get("labels") is None:
            continue
        ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
        if ids.shape == labels.shape and ((labels == IGNORED) & (ids != pad))[1:].any():
            raise ValueError(
                f"features: the labels of row {number} leave tokens out, and this collator learns all of them: give "
                "DataCollatorForSeq2Seq(tokenizer), which keeps labels, or leave them out"
            )


def _labels_of(features):
    """{"labels": array} of rows with a label each, under either name; a number that is not whole is for regression."""
    name = next((name for name in LABELS if features[0].get(name) is not None), None)
    if name is None:
        return {}
    if len({np.shape(row[name]) for row in features}) > 1:
        raise ValueError(f"features: the rows have unlike numbers of {name}: give DataCollatorForSeq2Seq(tokenizer)")
    return {"labels": np.array([row[name] for row in features])}


def label_whole_rows(row: Mapping[str, Any]) -> bool:
    """Is what this row is labelled with said of the whole row, if it is labelled at all?"""
    label = next((row[name] for name in LABELS if row.get(name) is not None), 0)
    return "label" in row or are_of_rows(np.asarray(label)[None])


def default_data_collator(features: Features, return_tensors: str = "np") -> Batch:
    """Rows of one length as arrays. A `label` of a row is one of its `labels`."""
    expect_tokens(features, "features")
    if len({len(row["input_ids"]) for row in features}) > 1:
        raise ValueError(f"the rows have unlike lengths: {FILL_UP}")
    names = [name for name in INPUTS if features[0].get(name) is not None]
    batch = {name: _whole([row[name] for row in features], name) for name in names}
    return {**batch, **_labels_of(features)}


class CollatedData:
    """Rows of ids, made into batches by a collator: what `train` and `evaluate` read.

    batch(seed, step)   as Transformers' Trainer has them: each epoch is a permutation, which follows from the seed and
                        the epoch's number, its last batch has the rows that are left, and so its last `accumulation`
                        batches; None for one of these that would have no row
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        collator: Callable[[Any], Any],
        batch_size: int,
        accumulation: int = 1,
        name: str = "the data set",
        needs_labels: bool = True,
        shows_logits: bool = False,
    ) -> None:
        expect_tokens(rows, name)
        expect_whole(batch_size, "per_device_train_batch_size")
        self._rows, self.collator, self.batch_size, self.needs_labels = rows, collator, batch_size, needs_labels
        self.shows_logits = shows_logits  # those of padding too
        self.rows, self.accumulation = len(rows), accumulation

    def batch(self, seed: int, step: int) -> Batch | None:
        update, part = divmod(step, self.accumulation)
        each = self.batch_size * self.accumulation  # rows of an update
        epoch, update = divmod(update, -(-self.rows // each))
        order = np.random.default_rng((seed, epoch)).permutation(self.rows)
        start = update * each + part * self.batch_size
        return self._made(order[start : start + self.batch_size]) if start < self.rows else None

    def batches(self, batch_size: int) -> Iterator[Batch]:
        for start in range(0, self.rows, batch_size):
            yield self._made(range(start, min(start + batch_size, self.rows)))

    def _made(self, numbers: Any) -> Batch:
        made = self.collator([{k: v for k, v in self._rows[i].items() if k in (*READ, *LABELS)} for i in numbers])
        expect(made, Mapping, "what data_collator returns", "a dict {name: array}")
        if self.needs_labels and made.get("labels") is None:
            raise ValueError(f"the rows have no labels: {FILL_UP}")
        batch = {name: np.asarray(made[name]) for name in READ if made.get(name) is not None}
        if not self.shows_logits and mask_is_idle(batch):
            del batch["attention_mask"]
        return batch if batch.keys() & {"attention_mask", "seq_idx"} else {**batch, **_texts_of(batch)}


def mask_is_idle(batch: Batch) -> bool:
    """Does the loss not depend on the mask? So it is where rows are filled up on the right, and no padding is learnt.

    What is learnt of padding, as of ids that were filled up and then copied, depends on what padding sees. And beside
    a mask, positions do not tell texts apart (`_texts_of`).
    """
    mask, labels = batch.get("attention_mask"), batch.get("labels")
    if mask is None or mask.shape != batch["input_ids"].shape or "position_ids" in batch:
        return False
    if (np.diff(mask, axis=1) > 0).any():
        return False
    if labels is None or are_of_rows(labels):
        return True
    return labels.shape == mask.shape and not ((mask[:, :-1] == 0) & (labels[:, 1:] != IGNORED)).any()


def _texts_of(batch: Batch) -> Batch:
    """{"seq_idx"} where positions begin anew in a row: there a text does, which sees none of those before it."""
    positions, shape = batch.get("position_ids"), batch["input_ids"].shape
    texts = None if positions is None else texts_by_position(positions, shape)
    return {} if texts is None else {"seq_idx": texts}
