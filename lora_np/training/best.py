"""The best weights of a run: those of the evaluation with the lowest loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from .protocols import Array
from .weights import Trained, copied, put

Evaluation = Mapping[str, Any]  # {"step":, name: loss, ...}


class Best:
    """What `TrainingArguments.load_best` keeps beside the last weights, and loads in the end.

    weights  {name: array}, a copy of the best so far; empty before there is an evaluation
    """

    def __init__(self, trainable: Trained, weights: dict[str, Array] | None = None) -> None:
        self.trainable, self.weights = trainable, weights or {}

    def compare(self, evaluations: Sequence[Evaluation]) -> None:
        """Take a copy of the weights if the last of these evaluations is the best."""
        if best_of(evaluations) is evaluations[-1]:
            self.weights = copied(self.trainable)

    def load(self, evaluations: Sequence[Evaluation]) -> dict[str, Evaluation]:
        """Put the best weights into the model; {"best": the evaluation that they are of}."""
        put(self.trainable, {name: array.copy() for name, array in self.weights.items()})
        return {"best": best_of(evaluations)}


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the lowest loss on its first data set; of equal ones, the earliest.

    The weights that a run began with are evaluated too: if training only made them worse, they are the best.
    """
    return min(evaluations, key=_loss)


def _loss(evaluation: Evaluation) -> float:
    return next(loss for name, loss in evaluation.items() if name != "step")
