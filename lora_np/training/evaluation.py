"""How good a model is on data that it was not trained on, and what counts in a batch."""

from collections.abc import Iterator

from ..autograd import no_grad
from ..models.output import IGNORED
from ..nn import Module, evaluating
from .protocols import Array, Batch, EvaluationData


def evaluate(model: Module, data: Array | tuple[Array, Array] | EvaluationData, batch_size: int = 32) -> float:
    """The mean loss in nats per token, over every token that counts, with nothing recorded and no dropout.

    The model is not changed, its mode included: others may use it meanwhile.

    data: windows (n, T), of which all tokens count; a pair (ids, labels), each (n, T), with labels -100 where nothing
    counts; or a data set with batches(batch_size), such as `ExampleData`.
    The mean is over targets, not over batches: a batch with few targets weighs little. ValueError if there is none.
    """
    total, count = 0.0, 0
    with no_grad(), evaluating():
        for batch in _all_batches(data, batch_size):
            if targets := count_targets(batch["labels"]):
                total += model(**batch).loss.item() * targets
                count += targets
    if count == 0:
        raise ValueError("evaluate: there is no window to evaluate on, or no label in it that counts")
    return total / count


def _all_batches(data: Array | tuple[Array, Array] | EvaluationData, batch_size: int) -> Iterator[Batch]:
    """What `evaluate` is given, as {"input_ids", "labels"} of at most `batch_size` rows."""
    if not isinstance(data, tuple) and hasattr(data, "batches"):
        yield from data.batches(batch_size)
        return
    ids, labels = data if isinstance(data, tuple) else (data, data)
    for start in range(0, len(ids), batch_size):
        rows = slice(start, start + batch_size)
        yield {"input_ids": ids[rows], "labels": labels[rows]}


def count_targets(labels: Array) -> int:
    """How many labels (B, T) the loss is averaged over: those that are not -100, less each row's first, which no token
    precedes."""
    return int((labels[:, 1:] != IGNORED).sum())


def count_tokens(labels: Array) -> int:
    """How many tokens a batch has without its padding: each row's labels (B, T) up to the last that counts."""
    return int(((labels != IGNORED)[:, ::-1].cumsum(axis=1) > 0).sum())
