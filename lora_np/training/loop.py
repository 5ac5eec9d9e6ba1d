"""The training loop: plain, seeded, and able to go on exactly where it stopped.

`TrainingRun.plain_step` is what training is; `train` repeats it. What else a run can do is kept apart:

arguments.py     what a run is told
checkpoint.py    saving a run, and going on from one; best.py: the best weights of a run
watch.py         losses that are not finite; interruption.py: Ctrl-C; progress.py: the bar
parallel/        one step from several batches or processes; a step that a GPU has recorded
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..autograd import manual_seed
from ..lora.in_training import step_hook
from ..lora.types import StrPath
from ..nn import Module
from ..refusals import refuses_here
from .arguments import TrainingArguments, check_given
from .best import Best
from .checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from .evaluation import count_tokens, evaluate, measured
from .history import TrainingHistory
from .interruption import stop_on_interrupt
from .optim import OPTIMIZERS, clip_grad_norm_, parameter_groups
from .parallel.joint_step import joint_gradients
from .parallel.processes import Communicator, SoloCommunicator, start_together
from .parallel.recorded import recorded_step
from .progress import Progress
from .protocols import Batch, History, Tell, TrainingData
from .watch import SETTLE_EVERY, Watch

__all__ = ["CHECKPOINT", "TrainingArguments", "TrainingRun", "evaluate", "train"]


class TrainingRun:
    """A model, its optimizer and how far they have come: everything that a checkpoint holds.

    Its step has three forms, which give the same weights, up to rounding: plain, joint and recorded.
    """

    def __init__(
        self,
        model: Module,
        args: TrainingArguments,
        identity: Mapping[str, Any] | None = None,
        communicator: Communicator | SoloCommunicator | None = None,
        tell: Tell = lambda event, run: None,
    ) -> None:
        self.model, self.args, self.step, self.tell, self.stop = model, args, 0, tell, threading.Event()
        self.identity, self.communicator = identity or {}, communicator or SoloCommunicator()
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(model, args.learning_rate, args.weight_decay, args.loraplus_lr_ratio)
        self.optimizer = OPTIMIZERS[args.optim](groups, betas=args.betas, eps=args.adam_epsilon)  # AdamW, mostly
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.history: History = {"loss": [], "learning_rate": [], "evaluation": []}
        self.watch, self.best, self.after_step = Watch(self), Best(self.trainable, args), step_hook(model)
        self.is_joint = args.accumulation > 1 or self.communicator.size > 1
        self.recorded = recorded_step(model, self.optimizer, args.max_grad_norm, self.communicator)

    def plain_step(self, batch: Batch) -> None:
        """Loss, gradients, clipping, the optimizer's step."""
        loss = self.model(**batch).loss
        loss.backward()
        self.watch.note(loss.data)
        self.update_weights()

    def update_weights(self) -> None:
        """From gradients to the next weights; the gradients are forgotten."""
        norm = clip_grad_norm_(self.trainable.values(), self.args.max_grad_norm or float("inf"))
        with self.watch.changing_weights(norm):
            self.optimizer.step()
            self.after_step(self.step)
        self.optimizer.zero_grad()

    def one_step(self, data: TrainingData) -> int:
        """The next step of the optimizer, on the next batch (or `accumulation` batches); returns its number of tokens.

        All chance in it (which windows, which dropout) follows from seed and step: a checkpoint needs no random state.
        """
        args = self.args
        manual_seed((args.seed, self.step, self.communicator.rank))  # the rank: each process has dropout of its own
        first = self.step * args.accumulation
        batches = [b for i in range(args.accumulation) if (b := data.batch(args.seed, first + i)) is not None]
        fraction = args.rate_fraction(self.step)
        for group, highest in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = highest * fraction
        self.take_step(batches)
        self.step += 1
        self.history["learning_rate"].append(args.learning_rate * fraction)
        return sum(count_tokens(batch) for batch in batches)

    def take_step(self, batches: Sequence[Batch]) -> None:
        """Change the weights, by the form of step that fits."""
        if self.recorded is not None and self.recorded.takes(batches):
            self.watch.note(self.recorded(*batches))
        elif self.is_joint:
            self.joint_step(batches)
        else:
            self.plain_step(batches[0])

    def joint_step(self, batches: Sequence[Batch]) -> None:
        """The step that all rows of these batches, and of all processes, would give in one batch."""
        self.watch.note(joint_gradients(self.model, batches, self.communicator, self.trainable.values()))
        self.update_weights()

    def arguments(self) -> dict[str, Any]:
        """What must be the same for a run to go on: the arguments, and what the caller says it is about."""
        return {**self.args.numbers(), **self.identity}

    def evaluate(self, evaluation: Mapping[str, Any]) -> None:
        """Append {"step":, name: loss} to the history, and keep the weights if these are the best so far."""
        with self.watch.evaluating():
            losses = measured(self.model, evaluation, self.args.per_device_eval_batch_size)
        self.history["evaluation"].append({"step": self.step, **losses})
        if self.args.load_best:
            self.best.compare(self.history["evaluation"])
        self.tell("on_evaluate", self)

    def save(self, directory: StrPath, is_last: bool = True) -> None:
        """Write a checkpoint: see `save_checkpoint`."""
        save_checkpoint(self, directory, is_last)
        self.tell("on_save", self)


@refuses_here
def train(
    model: Module,
    data: TrainingData,
    args: TrainingArguments | None = None,
    evaluation: Mapping[str, Any] | None = None,
    directory: StrPath | None = None,
    resume: bool | StrPath = False,
    progress: bool = True,
    identity: Mapping[str, Any] | None = None,
    communicator: Communicator | SoloCommunicator | None = None,
    tell: Tell = lambda event, run: None,
) -> History:
    """Train what is not frozen in `model` on `data`; returns the history.

    model        called as model(input_ids=, labels=), with an output that has .loss
    data         has batch(seed, step) -> {"input_ids", "labels"}, each (B, T), such as `TextData` or `ExampleData`
    evaluation   {name: what `evaluate` takes}: each is evaluated every `eval_every` steps
    directory    where the checkpoint goes; None for none. With `resume`, the run goes on from the one that is there, or
                 in the directory that `resume` names, where it stays as it is.
    identity     {name: value} of what else must be the same when a run goes on, such as the data's fingerprint
    communicator several processes train together, each on its rows of every batch: see `parallel/processes.py`
    tell         called as tell("on_step_end", run), and so on: see `callback_handler.py`
    Returns {"loss": [...], "learning_rate": [...], "evaluation": [{"step":, name: loss, ...}], "interrupted": bool},
    and with `load_best` "best", the evaluation whose weights the model has.

    Ctrl-C ends the run after the step in progress, with a checkpoint; a second Ctrl-C ends it at once. A loss or
    weights that are not finite are a FloatingPointError: the model then has the last good ones (`watch.py`).
    """
    args, directory, source = check_given(model, data, args, evaluation, directory, identity, communicator, resume)
    run = TrainingRun(model, args, identity, communicator, tell)
    if source is not None:
        load_checkpoint(run, source)
        run.watch.saved_step = run.step if source == directory else None
    start_together(run, lambda: data.batch(args.seed, run.step * args.accumulation), progress)
    model.zero_grad()  # whoever looked at gradients before does not change the first step
    try:
        model.train()
        shown = progress and run.communicator.rank == 0
        with stop_on_interrupt() as run.stop, Progress(run.step, args.steps, shown) as bar:
            _run_steps(run, data, evaluation or {}, directory, bar)
    except FloatingPointError as error:
        raise run.watch.go_back(error, directory) from None
    finally:
        model.eval()
        run.recorded = None  # and the memory of a GPU that it holds; the run itself is forgotten some time later
    run.communicator.barrier()  # the checkpoint is there for all
    best = run.best.load(run.history["evaluation"]) if args.load_best else {}
    return TrainingHistory(**run.history, **best, interrupted=run.step < args.steps)


def _run_steps(
    run: TrainingRun, data: TrainingData, evaluation: Mapping[str, Any], directory: StrPath | None, bar: Progress
) -> None:
    """Steps until the end or until `run.stop` is set, with evaluations and checkpoints in between."""
    args, ending = run.args, run.step == run.args.steps
    run.watch.keep()
    run.tell("on_train_begin", run)
    if run.step == 0 and evaluation:
        with bar.aside("evaluating"):
            run.evaluate(evaluation)
    while not ending:
        run.tell("on_step_begin", run)
        bar.count(run.one_step(data))
        if (last := run.step == args.steps) or len(run.watch.pending) in (0, SETTLE_EVERY):  # on the CPU none
            run.watch.settle()
            bar.show(run.history["loss"][-1])
        run.tell("on_step_end", run)
        if evaluation and (run.step % args.eval_every == 0 or last):
            with bar.aside("evaluating"):
                run.evaluate(evaluation)
        if directory and (run.step % args.checkpoint_every == 0 or last):
            run.save(directory, last)
        run.tell("on_step_over", run)
        if ending := last or run.communicator.any(run.stop.is_set()):
            run.watch.check_weights()
            if directory and run.watch.saved_step != run.step:
                run.save(directory)
        bar.next_step()
