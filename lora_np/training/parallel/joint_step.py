r"""Gradients of several batches, or of several processes, as if all rows were in one batch.

The loss of a batch is a mean over its targets. So the mean over N targets that lie in several parts, nᵢ of them in
part i with the mean loss Lᵢ, and its gradient are

    L = Σᵢ (nᵢ/N) Lᵢ,        dL = Σᵢ (nᵢ/N) dLᵢ.

A part is a batch, or a process's rows of it. Each target weighs the same, wherever it is.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ...autograd import Tensor
from ...models.output import IGNORED
from ...nn import Module
from ..evaluation import count_targets
from ..protocols import Array, Batch
from .processes import Communicator, SoloCommunicator, own_rows


def joint_gradients(
    model: Module,
    batches: Sequence[Batch],
    communicator: Communicator | SoloCommunicator,
    parameters: Iterable[Tensor],
) -> Array:
    """Add up the gradients of these batches, in this process those of its rows, and over all; the mean loss, L.

    ValueError if no batch has a target.
    """
    total: Any = 0.0
    for own, share in shares(batches, communicator):
        loss = model(**own).loss * share
        loss.backward()
        total = total + loss.data
    return communicator.sum_step(list(parameters), total)


def shares(batches: Sequence[Batch], communicator: Communicator | SoloCommunicator) -> list[tuple[Batch, float]]:
    """[(this process's rows of a batch, nᵢ/N)], without those that have no target: others have them all.

    ValueError if no batch has a target.
    """
    targets = sum(count_targets(batch["labels"]) for batch in batches)
    if targets == 0:
        where = "the batch" if len(batches) == 1 else f"all {len(batches)} batches of the step"
        raise ValueError(
            f"the loss has nothing to average: every label after the first of a row is {IGNORED} in {where}"
        )
    own = [own_rows(batch, communicator) for batch in batches]
    counts = [count_targets(batch["labels"]) for batch in own]
    return [(batch, count / targets) for batch, count in zip(own, counts, strict=True) if count]
