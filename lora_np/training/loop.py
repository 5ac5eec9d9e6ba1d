"""The training loop: plain, seeded, and able to go on exactly where it stopped."""

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..autograd import manual_seed
from ..autograd.backend import on_gpu
from ..storage import read_safetensors, write_safetensors
from .distributed import SoloCommunicator, own_rows, start_together
from .evaluation import count_targets, count_tokens, evaluate
from .groups import parameter_groups
from .optim import AdamW, clip_grad_norm_, warmup_cosine
from .recorded import recorded_step

CHECKPOINT = "checkpoint.safetensors"
SETTLE_EVERY = 10  # steps after which a GPU's losses are looked at


@dataclass(frozen=True)
class TrainingArguments:
    """What a run does. Two runs with the same arguments, model and data give the same numbers.

    steps              optimizer steps
    learning_rate      the highest; it rises over `warmup_steps`, then falls along a cosine to `min_lr_ratio` of itself
    weight_decay       AdamW's, on matrices only: biases and norms are not pulled towards zero
    loraplus_lr_ratio  how many times faster LoRA's B learns than the rest (LoRA+); 1 for equal rates
    max_grad_norm      gradients are scaled down together if their norm is larger; 0 turns this off
    accumulation       batches whose gradients are added up before each step
    eval_every         steps between evaluations (there is one before the first step and one after the last)
    checkpoint_every   steps between checkpoints, if a directory is given; one is always written at the end
    """

    steps: int = 200
    learning_rate: float = 1e-3
    warmup_steps: int = 10
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    betas: tuple = (0.9, 0.999)
    loraplus_lr_ratio: float = 1.0
    max_grad_norm: float = 1.0
    accumulation: int = 1
    eval_every: int = 50
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "accumulation", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.loraplus_lr_ratio < math.inf:
            raise ValueError(f"loraplus_lr_ratio must be positive, got {self.loraplus_lr_ratio}")
        if not self.max_grad_norm >= 0:
            raise ValueError(f"max_grad_norm must not be negative, got {self.max_grad_norm}")


class TrainingRun:
    """A model, its optimizer and how far they have come: everything that a checkpoint holds."""

    def __init__(self, model, args, identity=None, communicator=None):
        self.model, self.args, self.identity = model, args, identity or {}
        self.communicator = communicator or SoloCommunicator()
        self.trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(model, args.learning_rate, args.weight_decay, args.loraplus_lr_ratio)
        self.optimizer = AdamW(groups, betas=args.betas)
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.history = 0, {"loss": [], "learning_rate": [], "evaluation": []}
        self.pending = []  # losses that are not in the history yet
        self.recorded = None  # on a GPU, a step of one batch is recorded once and replayed, which is much faster
        if args.accumulation == self.communicator.size == 1:
            self.recorded = recorded_step(model, self.optimizer, args.max_grad_norm)

    def one_step(self, data):
        """Gradients over `accumulation` batches, clipped; one step of the optimizer; the number of tokens.

        The mean loss goes to `pending`, and from there to the history: see `settle`.

        A batch weighs as much as it has targets, so that the step is the one that all its batches in one would give.
        All chance in a step (which windows, which dropout) follows from the seed and the step's number. That is why
        a checkpoint needs no random state: the number is enough.
        """
        args = self.args
        manual_seed((args.seed, self.step, self.communicator.rank))  # a seed stays the same with a 0 put after it
        self.model.zero_grad()
        batches = [data.batch(args.seed, self.step * args.accumulation + part) for part in range(args.accumulation)]
        fraction = warmup_cosine(self.step, args.steps, args.warmup_steps, args.min_lr_ratio)
        for group, highest in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = highest * fraction
        if self.recorded is not None and set(batches[0]) == {"input_ids", "labels"}:
            self.pending.append(self.recorded(batches[0]))
        else:
            self._ordinary_step(batches)
        self.step += 1
        self.history["learning_rate"].append(args.learning_rate * fraction)
        return sum(count_tokens(batch["labels"]) for batch in batches)

    def _ordinary_step(self, batches):
        """Gradients, clipping, and the optimizer's step."""
        total = self._gradients(batches)
        self.pending.append(total)
        if not on_gpu(total):
            self.settle()  # before the weights are touched, so that they stay as they were
        if self.args.max_grad_norm:
            clip_grad_norm_(self.trainable.values(), self.args.max_grad_norm)
        self.optimizer.step()
        self.model.zero_grad()

    def _gradients(self, batches):
        """Add up the gradients of these batches, in this process those of its rows, and over all; the mean loss."""
        total, targets = 0.0, sum(count_targets(batch["labels"]) for batch in batches)
        for batch in batches:
            own = own_rows(batch, self.communicator)
            count = count_targets(own["labels"])
            if count == 0 and count_targets(batch["labels"]):
                continue  # the other processes have all its targets
            loss = self.model(**own).loss * (count / targets)
            loss.backward()
            total = total + loss.data
        return self.communicator.sum_step(list(self.trainable.values()), total)

    def settle(self):
        """Move the losses of the last steps to the history; FloatingPointError if one is not finite.

        On a GPU this waits until all of its work is done. That is why the losses stay there for some steps.
        """
        for total in self.pending:
            step, total = len(self.history["loss"]), float(total)
            if not math.isfinite(total):
                raise FloatingPointError(f"the loss became {total} at step {step}: try a lower learning rate")
            self.history["loss"].append(total)
        self.pending = []

    def save(self, directory):
        """Write the checkpoint: trained parameters, optimizer state, step and history in one file, replaced at once.

        Of several processes, the first writes: all have the same to write.
        """
        self.settle()
        if self.communicator.rank > 0:
            return
        arrays = {f"model.{name}": p.data for name, p in self.trainable.items()}
        for name, value in self.optimizer.state_dict().items():
            arrays[f"optimizer.{name}"] = np.asarray(value) if isinstance(value, int) else value
        run = {"step": self.step, "history": self.history, "arguments": self.arguments()}
        write_safetensors(Path(directory) / CHECKPOINT, arrays, {"run": json.dumps(run)})

    def load(self, directory):
        """Take over the checkpoint in `directory`. ValueError if it is of another model or other arguments."""
        path = Path(directory) / CHECKPOINT
        arrays, metadata = read_safetensors(path)
        try:
            run = json.loads(metadata["run"])
            run["step"], run["history"]["loss"], run["arguments"].get
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
            raise ValueError(f"{path} is a safetensors file, but not a training checkpoint") from None
        self._check_fits(path, arrays, run)
        prefix = "optimizer."
        self.optimizer.load_state_dict({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
        self.model.load_state_dict({name: arrays[f"model.{name}"] for name in self.trainable}, strict=False)
        self.step, self.history = run["step"], run["history"]

    def arguments(self):
        """What must be the same for a run to go on: the arguments, and what the caller says it is about."""
        return {**dataclasses.asdict(self.args), **self.identity}

    def _check_fits(self, path, arrays, run):
        ours = json.loads(json.dumps(self.arguments()))
        other = [
            f"{k} was {run['arguments'].get(k)!r}, now {v!r}" for k, v in ours.items() if run["arguments"].get(k) != v
        ]
        if other:
            raise ValueError(f"{path} is of a run with other arguments: {'; '.join(other)}")
        saved = {k.removeprefix("model."): v.shape for k, v in arrays.items() if k.startswith("model.")}
        if saved != {name: p.shape for name, p in self.trainable.items()}:
            raise ValueError(f"{path} is of another model: its trained parameters have other names or shapes")


def train(
    model,
    data,
    args=None,
    evaluation=None,
    directory=None,
    resume=False,
    progress=True,
    identity=None,
    communicator=None,
):
    """Train what is not frozen in `model` on `data`; returns the history.

    model        called as model(input_ids=, labels=), with an output that has .loss
    data         has batch(seed, step) -> {"input_ids", "labels"}, each (B, T), such as `TextData` or `ExampleData`
    evaluation   {name: what `evaluate` takes}: each is evaluated every `eval_every` steps
    directory    where the checkpoint goes; None for none. With `resume`, the run goes on from the one that is there.
    identity     {name: value} of what else must be the same when a run goes on, such as the data's fingerprint
    communicator several processes train together, each on its rows of every batch: see `distributed.py`
    Returns {"loss": [...], "learning_rate": [...], "evaluation": [{"step":, name: loss, ...}], "interrupted": bool}.

    Ctrl-C ends the run after the step in progress, with a checkpoint; a second Ctrl-C ends it at once.
    """
    args = args or TrainingArguments()
    run = TrainingRun(model, args, identity, communicator)
    if resume:
        if directory is None:
            raise ValueError("resume needs the directory that the checkpoint is in")
        run.load(directory)
    start_together(run, lambda: data.batch(args.seed, run.step * args.accumulation), progress)
    model.train()
    try:
        with _stop_on_interrupt() as stop:
            _run_steps(run, data, evaluation or {}, directory, progress, stop)
    finally:
        model.eval()
    run.communicator.barrier()  # the checkpoint is there for all
    return {**run.history, "interrupted": run.step < args.steps}


def _run_steps(run, data, evaluation, directory, progress, stop):
    """Steps until the end or until `stop` is set, with evaluations and checkpoints in between."""
    from tqdm.auto import tqdm  # takes longer to import than most of this library

    args, start, communicator = run.args, run.step, run.communicator
    if run.step == 0:
        _evaluate_all(run, evaluation)
    bar = tqdm(
        range(start, args.steps),
        initial=start,
        total=args.steps,
        unit="step",
        disable=not progress or communicator.rank > 0,
    )
    began, tokens = time.perf_counter(), 0
    for _ in bar:
        tokens += run.one_step(data)
        last, stopping = run.step == args.steps, communicator.any(stop.is_set())
        if last or stopping or not run.pending or len(run.pending) == SETTLE_EVERY:
            run.settle()
            loss, now = run.history["loss"][-1], time.perf_counter()
            bar.set_postfix_str(f"loss={loss:.3f}, {tokens / (now - began):,.0f} tokens/s")
            began, tokens = now, 0
        if run.step % args.eval_every == 0 or last:
            run.settle()
            _evaluate_all(run, evaluation)
            began, tokens = time.perf_counter(), 0
        if directory and (run.step % args.checkpoint_every == 0 or last or stopping):
            run.save(directory)
        if stopping:
            bar.update()  # leaving the loop would not count this step
            break
    bar.close()


def _evaluate_all(run, evaluation):
    """Append {"step":, name: loss} to the history."""
    if evaluation:
        losses = {name: evaluate(run.model, held_out) for name, held_out in evaluation.items()}
        run.history["evaluation"].append({"step": run.step, **losses})


@contextlib.contextmanager
def _stop_on_interrupt():
    """Yield an event that the first Ctrl-C sets; the second is Python's usual KeyboardInterrupt."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def first(signum, frame):
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
