"""Checkpoints: a run in a file, from which it goes on as if it had never stopped."""

import json
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage import read_safetensors, write_safetensors
from .protocols import Array, History

if TYPE_CHECKING:
    from .loop import TrainingRun

CHECKPOINT = "checkpoint.safetensors"
OPTIMIZER, MODEL = "optimizer.", "model."  # how the names in the file begin


class CheckpointError(OSError):
    """The last checkpoint of a run could not be written. What was trained is still in memory.

    run       the `TrainingRun`: `run.save(directory)` writes the checkpoint to another directory
    history   what `train` would have returned
    """

    def __init__(self, run: "TrainingRun", reason: OSError) -> None:
        super().__init__(f"{reason}; what was trained is still in memory, and error.run.save(directory) writes it")
        self.run, self.errno = run, reason.errno
        self.history: History = {**run.history, "interrupted": run.step < run.args.steps}


def save_checkpoint(run: "TrainingRun", directory: str | PathLike[str], is_last: bool = True) -> None:
    """Write the checkpoint: trained parameters, optimizer state, step and history in one file, replaced at once.

    Of several processes, the first writes: all have the same to write. If it cannot be written, that is a
    CheckpointError where it is the last; otherwise a warning, and the one before stays.
    """
    run.settle()
    if run.communicator.rank > 0:
        return
    arrays = {f"{MODEL}{name}": p.data for name, p in run.trainable.items()}
    for name, value in run.optimizer.state_dict().items():
        arrays[f"{OPTIMIZER}{name}"] = np.asarray(value) if isinstance(value, int) else value
    state = {"step": run.step, "history": run.history, "arguments": run.arguments()}
    try:
        write_safetensors(Path(directory) / CHECKPOINT, arrays, {"run": json.dumps(state)})
    except OSError as error:
        if is_last:
            raise CheckpointError(run, error) from error
        warnings.warn(f"{error}; the training goes on without a checkpoint of step {run.step}", stacklevel=5)


def load_checkpoint(run: "TrainingRun", directory: str | PathLike[str]) -> None:
    """Take over the checkpoint in `directory`. ValueError, and nothing changed, if it is of another model or run."""
    path = Path(directory) / CHECKPOINT
    arrays, metadata = read_safetensors(path)
    try:
        state = json.loads(metadata["run"])
        state["step"], state["history"]["loss"], state["arguments"].get
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise ValueError(f"{path} is a safetensors file, but not a training checkpoint") from None
    _check_fits(run, path, arrays, state)
    run.optimizer.load_state_dict(_beginning_with(OPTIMIZER, arrays))
    run.model.load_state_dict({name: arrays[f"{MODEL}{name}"] for name in run.trainable}, strict=False)
    run.step, run.history = state["step"], state["history"]


def _check_fits(run: "TrainingRun", path: Path, arrays: dict[str, Array], state: dict[str, Any]) -> None:
    saved, ours = state["arguments"], json.loads(json.dumps(run.arguments()))
    other = [
        f"{name} was {saved.get(name)!r}, now {value!r}" for name, value in ours.items() if saved.get(name) != value
    ]
    if other:
        raise ValueError(f"{path} is of a run with other arguments: {'; '.join(other)}")
    shapes = {name: array.shape for name, array in _beginning_with(MODEL, arrays).items()}
    if shapes != {name: p.shape for name, p in run.trainable.items()}:
        raise ValueError(f"{path} is of another model: its trained parameters have other names or shapes")


def _beginning_with(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
