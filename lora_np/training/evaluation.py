"""How good a model is on data that it was not trained on, and what counts in a batch."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..autograd import no_grad
from ..expect import A_MODEL, expect, expect_method, expect_whole
from ..models.output import IGNORED
from ..nn import Module, evaluating
from .progress import counted
from .protocols import Array, Batch, EvaluationData

EVALUATED = (
    "an array of token ids (n, T), a pair of arrays (ids, labels), or a data set such as ExampleData or TextData"
)


def evaluate(model: Module, data: Array | tuple[Array, Array] | EvaluationData, batch_size: int = 32) -> float:
    """The mean loss in nats per token, over every token that counts, with nothing recorded and no dropout.
    Of a classifier it is the mean over rows, of its labels (B,).

    The model is not changed, its mode included: others may use it meanwhile.

    data: windows (n, T), of which all tokens count; a pair (ids, labels), each (n, T), with labels -100 where nothing
    counts; or a data set with batches(batch_size), such as `ExampleData` or `TextData`.
    The mean is over targets, not over batches: a batch with few targets weighs little. ValueError if there is none,
    FloatingPointError if the loss is not finite.
    """
    expect(model, Module, "model", A_MODEL)
    expect_evaluated(data, "data")
    expect_whole(batch_size, "batch_size")
    total, count = 0.0, 0
    with no_grad(), evaluating():
        for batch in counted(_all_batches(data, batch_size)):
            if targets := count_targets(batch["labels"]):
                total += model(**batch).loss.item() * targets
                count += targets
    if count == 0:
        raise ValueError("evaluate: there is no window to evaluate on, or no label in it that counts")
    if not math.isfinite(total):
        raise FloatingPointError(
            f"evaluate: the loss is {total / count}, so the weights are broken, or numbers grow too large on this text"
        )
    return total / count


def measured(model: Module, evaluation: Mapping[str, Any], batch_size: int) -> dict[str, float]:
    """{name: the loss of `evaluate`} of each {name: data}, and what else such data measure (`predictions.Measured`)."""
    found: dict[str, float] = {}
    for name, data in evaluation.items():
        own = hasattr(data, "measured")
        found |= data.measured(model, name, batch_size) if own else {name: evaluate(model, data, batch_size)}
    return found


def _all_batches(data: Array | tuple[Array, Array] | EvaluationData, batch_size: int) -> Iterator[Batch]:
    """What `evaluate` is given, as {"input_ids", "labels"} of at most `batch_size` rows."""
    if not isinstance(data, tuple) and hasattr(data, "batches"):
        yield from data.batches(batch_size)
        return
    ids, labels = data if isinstance(data, tuple) else (data, data)
    for start in range(0, len(ids), batch_size):
        rows = slice(start, start + batch_size)
        yield {"input_ids": ids[rows], "labels": labels[rows]}


def expect_evaluated(data: Any, name: str) -> None:
    """TypeError, beginning with `name`, unless `evaluate` can read this."""
    pair = data if isinstance(data, tuple) and len(data) == 2 else (data,)
    if not all(getattr(array, "ndim", None) == 2 for array in pair):
        expect_method(data, "batches", name, EVALUATED)


def are_of_rows(labels: Array) -> bool:
    """Are these a classifier's labels, one for each row, (B,), or numbers for each of its classes, (B, L)?"""
    return labels.ndim == 1 or labels.dtype.kind == "f"


def count_targets(labels: Array) -> int:
    """How many labels the loss is averaged over, those that are not -100: rows (B,), or, of labels (B, T), tokens less
    each row's first, which no token precedes."""
    if are_of_rows(labels):
        return len(labels) if labels.dtype.kind == "f" else int((labels != IGNORED).sum())
    return int((labels[:, 1:] != IGNORED).sum())


def count_tokens(batch: Batch) -> int:
    """How many tokens a batch has without its padding: each row's up to the last label (B, T) that counts, or those
    that its attention_mask says where the labels are of whole rows."""
    labels = batch["labels"]
    if are_of_rows(labels):
        return int(batch.get("attention_mask", batch["input_ids"] >= 0).sum())
    return int(((labels != IGNORED)[:, ::-1].cumsum(axis=1) > 0).sum())
