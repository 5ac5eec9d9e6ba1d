"""Numbers that are not finite end a run, and what was trained before them is kept.

A loss that is NaN says that the weights it was computed with are broken, or its batch is. Which of the two nobody
knows, so the model gets back the weights with which the last finite loss was computed. The same copy undoes a change of
the weights that is interrupted: a step is taken whole or not at all.
"""

import contextlib
import math
from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING

from ..autograd.devices import array_module, on_gpu
from .protocols import Array
from .weights import copied, put

if TYPE_CHECKING:
    from .loop import TrainingRun

SETTLE_EVERY = 10  # steps after which a GPU's losses are looked at


class Watch:
    """Looks at the losses of a `TrainingRun`, and keeps a copy of the last weights that are known to be good.

    On the CPU a loss is looked at as soon as it is there, before the weights are touched. On a GPU looking at it means
    to wait for all that is to be done there: the losses of the last steps are `pending`, and the copy is of the moment
    when they were looked at last.

    good, good_step  the copy {name: array}, and how many steps these weights have taken
    saved_step       the step of the last checkpoint, None if there is none
    """

    def __init__(self, run: "TrainingRun") -> None:
        self.run = run
        self.pending: list[Array] = []  # losses that are not in the history yet
        self.good: dict[str, Array] = {}
        self.good_step = 0
        self.saved_step: int | None = None

    def keep(self) -> None:
        """These weights are good."""
        trainable = self.run.trainable
        if self.good:
            for name, p in trainable.items():
                self.good[name][...] = p.data
        else:
            self.good = copied(trainable)
        self.good_step = self.run.step

    def note(self, loss: Array) -> None:
        """Put a step's loss into the history; on a GPU later, so that nobody waits for it."""
        self.pending.append(loss)
        if not on_gpu(loss):
            self.settle()

    def settle(self) -> None:
        """Move the losses of the last steps to the history; FloatingPointError if one is not finite."""
        losses = self.run.history["loss"]
        for total in self.pending:
            check_finite("the loss", float(total), len(losses))
            losses.append(float(total))
        if self.pending:
            self.keep()
        self.pending = []

    @contextlib.contextmanager
    def changing_weights(self, norm: Array | float) -> Iterator[None]:
        """Around the change of the weights, which is undone if it is interrupted; `norm` is that of the gradients.

        Not while losses are pending: then the copy is not of just before. A GPU changes all weights at once anyway.
        """
        if self.pending:
            yield
            return
        check_finite("the norm of the gradients", norm, self.run.step)
        try:
            yield
        except BaseException:
            put(self.run.trainable, self.good)
            raise

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Around an evaluation: looks at the losses before it, and says at which step one of it is not finite."""
        self.settle()
        try:
            yield
        except FloatingPointError as error:
            step = self.run.step
            raise FloatingPointError(f"{error} (at step {step}: {_advice(step)})") from None

    def check_weights(self) -> None:
        """FloatingPointError if a weight or a number of the optimizer is not finite. Waits for a GPU."""
        self.settle()
        states = [value for state in self.run.optimizer.state.values() for value in state.values()]
        for array in [*(p.data for p in self.run.trainable.values()), *states]:
            if not isinstance(array, int) and not array_module(array).isfinite(array).all():
                step = self.run.step - 1
                raise FloatingPointError(f"weights became NaN or infinite in step {step}: {_advice(step)}")

    def go_back(self, error: FloatingPointError, directory: str | PathLike[str] | None) -> FloatingPointError:
        """Put the good weights back; the error, with what is left of the run."""
        put(self.run.trainable, self.good)
        of_step = f"the checkpoint in {directory} is of step {self.saved_step}"
        saved = "there is no checkpoint" if self.saved_step is None else of_step
        return FloatingPointError(f"{error}. The model has the weights after {self.good_step} steps again; {saved}.")


def check_finite(what: str, value: Array | float, step: int) -> None:
    """FloatingPointError unless this number of a step is finite."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} became {float(value)} at step {step}: {_advice(step)}")


def _advice(step: int) -> str:
    return "try a lower learning rate" if step else "look for NaN or infinity in the model that you train"
