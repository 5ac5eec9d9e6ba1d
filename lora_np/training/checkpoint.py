"""Checkpoints: a run in a file, from which it goes on as if it had never stopped."""

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd.devices import to_device, to_numpy
from ..lora.in_training import put_run_state, run_state
from ..nn import Module
from ..refusals import warn
from ..storage import open_safetensors, read_safetensors, write_safetensors
from .best import Best
from .optim import Optimizer
from .protocols import Array, History
from .weights import Trained, put

if TYPE_CHECKING:
    from .loop import TrainingRun

CHECKPOINT = "checkpoint.safetensors"
OPTIMIZER, MODEL, BEST, ADAPTERS = "optimizer.", "model.", "best.", "adapters."  # how the names in the file begin
# Arguments that older checkpoints do not name, and what they were
ADDED = {"load_best": False, "adam_epsilon": 1e-8, "lr_scheduler_type": "warmup_cosine", "optim": "adamw"}
ADDED |= {"metric_for_best_model": "loss", "greater_is_better": False}
ADDED |= dict.fromkeys(("lr_scheduler_kwargs", "warmup_ratio", "num_train_epochs", "per_device_train_batch_size"))
# When a run is made longer, these may follow from its length; they change nothing that is done already
WITH_LENGTH = ("steps", "warmup_steps", "eval_every", "checkpoint_every")


class CheckpointError(OSError):
    """The last checkpoint of a run could not be written. What was trained is still in memory.

    run       the `TrainingRun`: `run.save(directory)` writes the checkpoint to another directory
    reason    what kept it from being written, an OSError
    history   what `train` would have returned
    """

    def __init__(self, run: "TrainingRun", reason: OSError) -> None:
        super().__init__(f"{reason}; what was trained is still in memory, and error.run.save(directory) writes it")
        self.run, self.reason, self.errno = run, reason, reason.errno
        self.history: History = {**run.history, "interrupted": run.step < run.args.steps}


def save_checkpoint(run: "TrainingRun", directory: str | PathLike[str], is_last: bool = True) -> None:
    """Write the checkpoint: trained parameters, optimizer state, step and history in one file, replaced at once.

    With `load_best`, the best parameters too; and what adapters know of earlier steps. Of several processes, the first
    writes: all have the same to write.
    FloatingPointError, and the file stays as it was, if a number is not finite. If it cannot be written, that is a
    CheckpointError where it is the last; otherwise a warning, and the one before stays.
    """
    run.watch.check_weights()
    if run.communicator.rank == 0:
        arrays = {f"{MODEL}{name}": p.data for name, p in run.trainable.items()}
        for name, value in run.optimizer.numbered_state().items():
            arrays[f"{OPTIMIZER}{name}"] = np.asarray(value) if isinstance(value, int) else value
        arrays |= {f"{BEST}{name}": array for name, array in run.best.weights.items()}
        arrays |= {f"{ADAPTERS}{name}": to_numpy(array) for name, array in run_state(run.model).items()}
        state = {"step": run.step, "history": run.history, "arguments": run.arguments()}
        try:
            write_safetensors(Path(directory) / CHECKPOINT, arrays, {"run": json.dumps(state)})
        except OSError as error:
            if is_last:
                raise CheckpointError(run, error) from error
            warn(f"{error}; the training goes on without a checkpoint of step {run.step}")
            return
    run.watch.saved_step = run.step


def load_checkpoint(run: "TrainingRun", directory: str | PathLike[str]) -> None:
    """Take over the checkpoint in `directory`; if it does not fit, or this is interrupted, nothing has changed.

    ValueError with the file's name if it is damaged, of another model or run, or says what no run comes to.
    """
    path = Path(directory) / CHECKPOINT
    arrays, metadata = read_safetensors(path, as_stored=True)
    try:
        step, history = _checked_progress(run, metadata)
        weights = _fitting(MODEL, arrays, run.trainable)
        has_best = run.args.load_best and history["evaluation"]
        best = Best(run.trainable, run.args, _fitting(BEST, arrays, run.trainable) if has_best else None)
        optimizer_state = _optimizer_state(run.optimizer, arrays, step)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    before, known = {name: p.data for name, p in run.trainable.items()}, run_state(run.model)
    others = run.optimizer.state, run.step, run.history, run.best, run.watch.saved_step
    try:
        put(run.trainable, weights)
        _put_of_adapters(run.model, _beginning_with(ADAPTERS, arrays), path)
        run.optimizer.state, run.step, run.history, run.best = optimizer_state, step, history, best
        run.watch.saved_step = step
    except BaseException:
        put(run.trainable, before)
        put_run_state(run.model, known)
        run.optimizer.state, run.step, run.history, run.best, run.watch.saved_step = others
        raise


def check_resumable(directory: str | PathLike[str], arguments: Mapping[str, Any]) -> None:
    """ValueError, as `load_checkpoint` says it, if a run with these arguments, perhaps not all, cannot go on from here.

    Of the file only the header is read. FileNotFoundError if it is not there.
    """
    path = Path(directory) / CHECKPOINT
    with open_safetensors(path) as file:
        metadata = file.metadata
    try:
        _checked_arguments(arguments, metadata)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _checked_arguments(arguments: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(step, history) that the file says, not looked at yet. ValueError if it is of a run with other arguments."""
    try:
        state = json.loads(metadata["run"])
        saved, step, history = {**ADDED, **state["arguments"]}, state["step"], state["history"]
        history = {name: history[name] for name in ("loss", "learning_rate", "evaluation")}
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("is a safetensors file, but not a training checkpoint") from None
    ours = json.loads(json.dumps(arguments))
    longer = isinstance(saved.get("steps"), int) and saved["steps"] < ours.get("steps", 0)
    same = {name: v for name, v in ours.items() if not (longer and name in WITH_LENGTH)}
    other = [f"{name} was {saved.get(name)!r}, now {v!r}" for name, v in same.items() if saved.get(name) != v]
    if other:
        raise ValueError(f"is of a run with other arguments: {'; '.join(other)}")
    return step, history


def _checked_progress(run: "TrainingRun", metadata: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """(step, history) that the file says, if a run with the arguments of this one can have come there."""
    step, history = _checked_arguments(run.arguments(), metadata)
    losses, rates, evaluations = history.values()
    if type(step) is not int or not 0 <= step <= run.args.steps:
        raise ValueError(f"says that it is of step {step!r}, in a run of {run.args.steps} steps")
    for name, numbers in (("losses", losses), ("learning rates", rates)):
        if not isinstance(numbers, list) or len(numbers) != step or not all(map(_is_finite, numbers)):
            raise ValueError(f"is of step {step}, so it should have as many {name}, all finite: {numbers!r:.80}")
    if not isinstance(evaluations, list) or not _in_order(evaluations, step):
        raise ValueError(
            f"is of step {step}, so it should have evaluations {{step, name: loss, ...}} in order, with finite "
            f"losses, up to that step: {evaluations!r:.80}"
        )
    if min(rates, default=0) < 0:
        raise ValueError(f"says that a learning rate was negative: {min(rates)}")
    return step, history


def _is_finite(number: Any) -> bool:
    return isinstance(number, float) and math.isfinite(number)


def _in_order(evaluations: list[Any], last: int) -> bool:
    """Are these evaluations of steps that follow each other up to `last`?"""
    if not all(isinstance(e, dict) and type(e.get("step")) is int and len(e) > 1 for e in evaluations):
        return False
    steps = [e["step"] for e in evaluations]
    found = [[number for name, number in e.items() if name != "step"] for e in evaluations]
    in_order = all(a < b for a, b in zip([-1, *steps], [*steps, last + 1], strict=True))
    are_numbers = all(isinstance(number, int | float) for numbers in found for number in numbers)
    return in_order and are_numbers and all(_is_finite(loss) for loss, *_ in found)


def _put_of_adapters(model: Module, arrays: Mapping[str, Array], path: Path) -> None:
    try:
        put_run_state(model, arrays)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _fitting(prefix: str, arrays: Mapping[str, Array], trainable: Trained) -> dict[str, Array]:
    """The arrays whose names begin so, as the parameters hold them: on their devices, and memory of their own."""
    found = _beginning_with(prefix, arrays)
    shapes = {name: array.shape for name, array in found.items()}
    if shapes != {name: p.shape for name, p in trainable.items()}:
        raise ValueError("is of another model: its trained parameters have other names or shapes")
    for name, array in found.items():
        if array.dtype != trainable[name].dtype:
            raise ValueError(f"is of another model: {name} is {array.dtype} there and {trainable[name].dtype} here")
        if not np.isfinite(array).all():
            raise ValueError(f"is broken: {prefix}{name} has numbers that are not finite")
    return {name: to_device(found[name].copy(), p.device) for name, p in trainable.items()}


def _optimizer_state(optimizer: Optimizer, arrays: Mapping[str, Array], step: int) -> dict[int, Any]:
    """The state of the optimizer after so many steps."""
    found = optimizer.checked_state(_beginning_with(OPTIMIZER, arrays))
    taken = [state["step"] for state in found.values()]
    if not all(1 <= t <= step for t in taken) or (step > 0 and not taken):
        raise ValueError(f"is of step {step}, but in its optimizer state the parameters have taken {taken!r:.40} steps")
    return found


def _beginning_with(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
