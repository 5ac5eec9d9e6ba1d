"""What a model answers to each row of a data set, and what is measured on that, under Transformers' names."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Tensor, no_grad
from ..models.output import IGNORED
from ..nn import Module, evaluating
from .evaluation import count_targets
from .protocols import Array, Batch, EvaluationData


class EvalPrediction(NamedTuple):
    """What `compute_metrics` is given: `logits, labels = eval_prediction`."""

    predictions: Any
    label_ids: Any


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` returns. metrics: {"test_loss": ..., ...}, where there are labels."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class Measured:
    """Data to evaluate on, with a function that measures more than the loss: what `evaluate` and `train` read.

    compute   `EvalPrediction` -> {name: number}
    reduce    (logits, labels) of a batch, Tensors -> what is kept of the logits, an array or Tensor with a row for each
              row, or a tuple or dict of such; None to keep them all
    """

    def __init__(
        self,
        data: EvaluationData,
        compute: Callable[[EvalPrediction], Mapping[str, Any]],
        reduce: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.data, self.compute, self.reduce = data, compute, reduce

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return self.data.batches(batch_size)

    def measured(self, model: Module, name: str, batch_size: int) -> dict[str, float]:
        """{name: loss, name_metric: number, ...}. TypeError for a metric that is no number."""
        loss, logits, labels = answers(model, self.data, batch_size, self.reduce)
        if loss is None:
            raise ValueError(f"{name}: there is no label that counts to evaluate on")
        return {name: loss, **metrics_of(self.compute, EvalPrediction(logits, labels), name)}


def metrics_of(compute: Any, found: EvalPrediction, prefix: str) -> dict[str, float]:
    """{prefix_name: number} of {name: number} that `compute` returns; a name that begins so stays."""
    metrics = compute(found)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"compute_metrics should return a dict {{name: number}}, not {type(metrics).__name__}")
    return {key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": _number(key, v) for key, v in metrics.items()}


def _number(name: str, value: Any) -> float:
    plain = value.item() if hasattr(value, "item") and np.size(value) == 1 else value
    if not isinstance(plain, int | float):
        raise TypeError(f"compute_metrics: {name!r} should be a number, not {value!r:.60}")
    return plain


def answers(
    model: Module, data: EvaluationData, batch_size: int, reduce: Any = None
) -> tuple[float | None, Any, Array | None]:
    """(the mean loss, the logits of all rows, their labels), batch after batch; loss and labels None without labels.

    Rows of tokens (B, T, ...) of unlike lengths are filled up on the right with -100. A tuple for a tuple that `reduce`
    returns.
    """
    total, count, logits, labels = 0.0, 0, [], []
    with no_grad(), evaluating():
        for batch in data.batches(batch_size):
            out = model(**batch)
            given = batch.get("labels")
            if given is not None:
                targets = count_targets(given)
                total, count = total + (out.loss.item() * targets if targets else 0.0), count + targets
                labels.append(np.asarray(given))
            found = out.logits
            logits.append(_plain(found if reduce is None else reduce(found, given if given is None else Tensor(given))))
    return total / count if count else None, _joined(logits), _joined(labels) if labels else None


def _plain(found: Any) -> Any:
    """An array of an array, a Tensor or a number; a tuple of a tuple or list of such, and a dict of a dict."""
    if isinstance(found, Mapping):
        return {name: _plain(part) for name, part in found.items()}
    if isinstance(found, tuple | list) and any(hasattr(part, "shape") for part in found):
        return tuple(map(_plain, found))
    return np.atleast_1d(found.numpy() if isinstance(found, Tensor) else np.asarray(found))


def _joined(parts: list[Any]) -> Any:
    """All rows of the batches as one array, a tuple or a dict of them; shorter rows are filled up with -100."""
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(_joined(list(part)) for part in zip(*parts, strict=True))
    longest = max(array.shape[1] for array in parts) if parts[0].ndim > 1 else 0

    def filled(array: Array) -> Array:
        if array.ndim < 2 or array.shape[1] == longest:
            return array
        widths = [(0, 0), (0, longest - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
        return np.pad(array, widths, constant_values=IGNORED)

    return np.concatenate([filled(array) for array in parts])
