"""The best weights of a run: those of the evaluation with the lowest loss, or another measure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import TrainingArguments
from .protocols import Array
from .weights import Trained, copied, put

Evaluation = Mapping[str, Any]  # {"step":, name: loss, ...}


class Best:
    """What `TrainingArguments.load_best` keeps beside the last weights, and loads in the end.

    weights  {name: array}, a copy of the best so far; empty before there is an evaluation
    """

    def __init__(self, trainable: Trained, args: TrainingArguments, weights: dict[str, Array] | None = None) -> None:
        self.trainable, self.args, self.weights = trainable, args, weights or {}

    def compare(self, evaluations: Sequence[Evaluation]) -> None:
        """Take a copy of the weights if the last of these evaluations is the best."""
        if best_of(evaluations, self.args) is evaluations[-1]:
            self.weights = copied(self.trainable)

    def load(self, evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
        """Put the best weights into the model; {"best": the evaluation that they are of}."""
        put(self.trainable, {name: array.copy() for name, array in self.weights.items()})
        return {"best": best_of(evaluations, self.args)}


def best_of(evaluations: Sequence[Evaluation], args: TrainingArguments) -> Evaluation:
    """The evaluation with the lowest `metric_for_best_model`, or the highest; of equal ones, the earliest.

    The weights that a run began with are evaluated too: if training only made them worse, they are the best.
    """
    return min(evaluations, key=lambda evaluation: badness(value_of(evaluation, args.metric_for_best_model), args))


def badness(value: float, args: TrainingArguments) -> float:
    """What was measured, or with greater_is_better -that: the lower, the better. Nothing is worse than NaN."""
    return math.inf if math.isnan(value) else -value if args.greater_is_better else value


def value_of(evaluation: Evaluation, metric: str) -> float:
    """What was measured, by Transformers' name: eval_NAME, or NAME; "loss" is the first data set's.

    ValueError if it was not measured.
    """
    found = {name: number for name, number in evaluation.items() if name != "step"}
    short = metric.removeprefix("eval_")
    names = [name for full in (f"eval_{short}", short) for name in (full, full.removesuffix("_loss"))]
    if short == "loss":
        names = list(found)[:1] if metric == short else [*names, *list(found)[:1]]
    for name in names:
        if name in found:
            return found[name]
    raise ValueError(f"metric_for_best_model={metric!r} was not measured; there is {', '.join(found)}")
