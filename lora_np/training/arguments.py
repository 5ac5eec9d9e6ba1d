"""What a training run is told."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ..expect import A_MODEL, expect, expect_method, expect_number, expect_path, expect_whole
from ..nn import Module
from ..settings import changed_settings
from .evaluation import expect_evaluated
from .names import ReadByTheirNames, understood
from .optim import OPTIMIZERS, SAME
from .optim.optimizer import expect_betas
from .optim.schedule import NAMES, OWN, rate_fraction, warmup_cosine

SOME_DATA = "a data set with batch(seed, step), such as TextData or ExampleData (others go to Trainer)"
STRATEGIES = ("no", "steps", "epoch")


ASIDE = {"aside": True}  # of a field that may differ when a run goes on: it changes no number


@dataclass(frozen=True)
class TrainingArguments(ReadByTheirNames):
    """What a run does. Two runs with the same arguments, model and data give the same numbers.

    steps              optimizer steps (Transformers: max_steps)
    learning_rate      the highest; it rises over `warmup_steps`, then falls along a cosine to `min_lr_ratio` of itself
    weight_decay       AdamW's, on matrices only: biases and norms are not pulled towards zero
    betas              AdamW's (adam_beta1, adam_beta2); adam_epsilon: what it adds to denominators
    loraplus_lr_ratio  how many times faster LoRA's B learns than the rest (LoRA+); 1 for equal rates
    max_grad_norm      gradients are scaled down together if their norm is larger; 0 turns this off
    accumulation       batches whose gradients are added up before each step (gradient_accumulation_steps)
    eval_every         steps between evaluations (eval_steps, or else logging_steps if eval_strategy="steps"; there is
                       one before the first step and one after the last)
    checkpoint_every   steps between checkpoints, if a directory is given (save_steps); one is always written at the end
    load_best          in the end, and after Ctrl-C, the model has the weights of the best evaluation, not the last ones
                       (load_best_model_at_end). What the run began with is evaluated too. The checkpoint holds both
    metric_for_best_model   what is lowest at the best evaluation, or highest with greater_is_better: the loss on the
                       first data set, or what `compute_metrics` measures. Of a name that does not end with "loss" the
                       highest is the best, if nothing else is said
    lr_scheduler_type  Transformers' name of another course of the learning rate: linear, cosine, cosine_with_restarts,
                       cosine_with_min_lr, polynomial, constant, constant_with_warmup, inverse_sqrt, with
                       lr_scheduler_kwargs as there. Without warmup_steps these have no rise
    warmup_ratio       the part of the steps that the rise takes, instead of warmup_steps
    num_train_epochs   instead of steps: how often all rows of the data are seen
    per_device_train_batch_size   rows of a batch where `Trainer` makes the batches; elsewhere the data has its own
    per_device_eval_batch_size    rows of a batch in evaluations, and in `Trainer.predict`
    output_dir         the directory, if `train` is given none
    eval_strategy, save_strategy   "steps", "epoch" (once for each pass over the data) or "no"
    optim              the optimizer, by Transformers' name: adamw_torch, adamw_8bit (its state in 8 bits) or
                       galore_adamw (of rank 128, for models that are trained whole)
    gradient_checkpointing   keep only each block's input, and compute the rest again in the backward pass

    The names of Transformers in brackets are understood too, also to read a value (args.max_steps), and so are those
    that change nothing here, such as logging_steps. The defaults are this library's. What is not possible here, such as
    bf16=True, is a ValueError that says what to do.
    """

    steps: int = 200
    learning_rate: float = 1e-3
    warmup_steps: int = cast(int, None)  # 10; none for Transformers' courses
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    loraplus_lr_ratio: float = 1.0
    max_grad_norm: float = 1.0
    accumulation: int = 1
    eval_every: int = 50
    checkpoint_every: int = 100
    seed: int = 0
    load_best: bool = False
    metric_for_best_model: str = "loss"
    greater_is_better: bool = False
    adam_epsilon: float = 1e-8
    lr_scheduler_type: str = OWN
    lr_scheduler_kwargs: Mapping[str, Any] | None = None
    warmup_ratio: float | None = None
    num_train_epochs: float | None = None
    per_device_train_batch_size: int | None = None
    optim: str = "adamw"
    per_device_eval_batch_size: int = dataclasses.field(default=32, metadata=ASIDE)
    output_dir: Any = dataclasses.field(default=None, metadata=ASIDE)
    eval_strategy: str | None = dataclasses.field(default=None, metadata=ASIDE)
    save_strategy: str | None = dataclasses.field(default=None, metadata=ASIDE)
    gradient_checkpointing: bool = dataclasses.field(default=False, metadata=ASIDE)

    def __repr__(self) -> str:
        unset: dict[str, Any] = {"warmup_steps": None}
        defaults = {"warmup_steps": dataclasses.replace(self, **unset).warmup_steps}
        return changed_settings(self, defaults if self.num_train_epochs is None else {**defaults, "steps": 0})

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            least = 0 if name == "steps" and self.num_train_epochs is not None else 1  # 0: to be found from the epochs
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        expect_whole(self.seed, "seed", least=0)
        for name in ("learning_rate", "loraplus_lr_ratio", "adam_epsilon"):
            expect_number(getattr(self, name), name, positive=True)
        for name in ("weight_decay", "max_grad_norm"):
            expect_number(getattr(self, name), name)
        expect_betas(self.betas)
        expect(self.metric_for_best_model, str, "metric_for_best_model", "the name of what is measured")
        for name in ("load_best", "greater_is_better", "gradient_checkpointing"):
            expect(getattr(self, name), bool, name, "True or False")
        self._check_amounts()
        self._settle_optimizer()
        self._settle_course()

    def _check_amounts(self) -> None:
        """Of data, and how often something is done."""
        if self.num_train_epochs is not None:
            expect_number(self.num_train_epochs, "num_train_epochs", positive=True)
        if self.per_device_train_batch_size is not None:
            expect_whole(self.per_device_train_batch_size, "per_device_train_batch_size")
        expect_whole(self.per_device_eval_batch_size, "per_device_eval_batch_size")
        if self.output_dir is not None:
            expect_path(self.output_dir, "output_dir", "the path of a folder")
        for name in ("eval_strategy", "save_strategy"):
            value = getattr(getattr(self, name), "value", getattr(self, name))  # of an enum
            if value is not None and value not in STRATEGIES:
                raise ValueError(f"{name} must be one of {', '.join(STRATEGIES)}, got {value!r}")
            object.__setattr__(self, name, value)

    def _settle_optimizer(self) -> None:
        """One name for each optimizer."""
        given = getattr(self.optim, "value", self.optim)  # of an enum
        name = next((name for name, others in SAME.items() if given in others), given)
        if not isinstance(name, str) or name not in OPTIMIZERS:
            known = ", ".join([*OPTIMIZERS, *(other for others in SAME.values() for other in others)])
            raise ValueError(
                f"optim={given!r:.60} is not possible here: runs are trained with AdamW or a relative of it ({known}); "
                "for another optimizer write the loop yourself, with lora_np.SGD for example"
            )
        object.__setattr__(self, "optim", name)

    def _settle_course(self) -> None:
        """Fill in what the learning rate's course leaves open, and try it."""
        name = getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)
        if name not in NAMES:
            raise ValueError(f"lr_scheduler_type must be one of {', '.join(NAMES)}, got {name!r:.60}")
        object.__setattr__(self, "lr_scheduler_type", name)
        object.__setattr__(self, "warmup_steps", self._warmup(10 if name == OWN else 0))
        floor = self.min_lr_ratio
        expect_number(floor, "min_lr_ratio")
        if name != OWN and floor != TrainingArguments.min_lr_ratio:
            raise ValueError(f"min_lr_ratio={floor} goes with the default course, not with lr_scheduler_type={name!r}")
        expect(self.lr_scheduler_kwargs, Mapping | None, "lr_scheduler_kwargs", "a dict, such as {'num_cycles': 2}")
        if name == OWN and self.lr_scheduler_kwargs:
            raise ValueError("lr_scheduler_kwargs needs an lr_scheduler_type")
        try:
            self.rate_fraction(self.steps)
        except TypeError:
            raise ValueError(
                f"lr_scheduler_kwargs={self.lr_scheduler_kwargs!r:.60} is nothing that {name!r} takes"
            ) from None

    def _warmup(self, default: int) -> int:
        """The steps of the rise: as given, or from warmup_ratio, or the default."""
        warmup: Any = self.warmup_steps
        ratio = self.warmup_ratio
        if isinstance(warmup, float) and (warmup >= 1 or warmup == 0) and warmup.is_integer():
            warmup = int(warmup)
        if isinstance(warmup, float) and 0 < warmup < 1:  # Transformers 5 says the ratio by this name
            warmup, ratio = None, warmup
        if ratio is not None:
            expect_number(ratio, "warmup_ratio")
            if ratio > 1:
                raise ValueError(f"warmup_ratio is a part of the steps, from 0 to 1, got {ratio}")
            of_steps = math.ceil(ratio * self.steps)
            warmup = warmup or of_steps  # 0 is how Transformers says that the ratio decides
            object.__setattr__(self, "warmup_ratio", ratio if warmup == of_steps else None)  # warmup_steps wins
        warmup = default if warmup is None else warmup
        expect_whole(warmup, "warmup_steps", least=0)
        return warmup

    def rate_fraction(self, step: int) -> float:
        """The fraction of the highest learning rate that a step has, counted from 0."""
        if self.lr_scheduler_type == OWN:
            return warmup_cosine(step, self.steps, self.warmup_steps, self.min_lr_ratio)
        options = self.lr_scheduler_kwargs
        return rate_fraction(self.lr_scheduler_type, step, self.steps, self.warmup_steps, self.learning_rate, options)

    def numbers(self) -> dict[str, Any]:
        """{name: value} of what a run's numbers depend on."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if "aside" not in f.metadata}


def _with_transformers_names(kind: type[TrainingArguments]) -> None:
    """Have `TrainingArguments(...)` understand Transformers' names: see names.py."""
    plain = kind.__init__
    fields = tuple(field.name for field in dataclasses.fields(kind))

    @functools.wraps(plain)
    def init(self: TrainingArguments, *first: Any, **given: Any) -> None:
        plain(self, **understood(first, given, fields))

    kind.__init__ = init  # type: ignore[method-assign]


_with_transformers_names(TrainingArguments)


def settled(model: Any, data: Any, args: TrainingArguments | None) -> TrainingArguments:
    """The arguments with what follows from model and data: epochs as steps, and blocks computed again if asked for.

    ValueError if the data does not tell how many rows it has, or makes batches of another size.
    """
    if args is None:
        return TrainingArguments()
    expect(args, TrainingArguments, "args", "TrainingArguments(steps=..., ...)")
    size, given = getattr(data, "batch_size", None), args.per_device_train_batch_size
    if given is not None and size is not None and size != given:
        raise ValueError(f"per_device_train_batch_size={given}, but the data makes batches of {size}: give one of them")
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    changes: dict[str, Any] = {}
    if args.num_train_epochs is not None:
        changes["steps"] = math.ceil(args.num_train_epochs * _epoch(data, args))
        changes["warmup_steps"] = args.warmup_steps if args.warmup_ratio is None else None
    for strategy, every in (("eval_strategy", "eval_every"), ("save_strategy", "checkpoint_every")):
        if getattr(args, strategy) == "epoch":
            changes[every] = _epoch(data, args)
    return dataclasses.replace(args, **changes)


def _epoch(data: Any, args: TrainingArguments) -> int:
    """The optimizer steps in which all rows of the data are seen."""
    rows, size = getattr(data, "rows", None), getattr(data, "batch_size", None)
    if type(rows) is not int or type(size) is not int:
        raise ValueError(
            "an epoch needs data with `rows` and `batch_size`, such as ExampleData or TextData: give steps"
        )
    return max(1, math.ceil(math.ceil(rows / size) / args.accumulation))


def epochs_done(data: Any, args: TrainingArguments, step: int) -> float:
    """How often all rows of the data were seen after so many steps; 0 if the data does not tell how many it has."""
    rows, size = getattr(data, "rows", None), getattr(data, "batch_size", None)
    if type(rows) is not int or type(size) is not int:
        return 0.0
    whole, more = divmod(step, _epoch(data, args))
    batches = math.ceil(rows / size)
    return whole + min(more * args.accumulation, batches) / batches


def check_given(
    model: Any, data: Any, args: Any, evaluation: Any, directory: Any, identity: Any, communicator: Any, resume: Any
) -> tuple[TrainingArguments, Any, Any]:
    """(arguments, the directory to write to, that of the checkpoint to go on from) of a run; None for no directory.

    TypeError or ValueError that names an argument of `train` which is not what it should be.
    """
    expect(model, Module, "model", A_MODEL)
    expect_method(data, "batch", "data", SOME_DATA)
    args = settled(model, data, args)
    expect(evaluation, Mapping | None, "evaluation", "a dict {name: what evaluate() takes}")
    if "step" in (evaluation or {}):
        raise ValueError("a data set to evaluate cannot be called 'step': in the history that is the step's number")
    for name, held_out in (evaluation or {}).items():
        expect_evaluated(held_out, f"evaluation[{name!r}]")
    expect(identity, Mapping | None, "identity", "a dict {name: value}")
    if communicator is not None:
        expect_method(communicator, "sum_step", "communicator", "what lora_np.training.parallel.communicator() gives")
    if directory is not None:
        expect_path(directory, "directory", "the path of a folder")
    if evaluation and args.eval_strategy == "no":
        raise ValueError("eval_strategy='no', but there is an evaluation: leave one of them out")
    if args.load_best and not evaluation:
        raise ValueError(
            "load_best needs an evaluation that says which weights are best: train(evaluation={name: data})"
        )
    metric = args.metric_for_best_model
    if args.greater_is_better and {metric, metric.removeprefix("eval_")} & set(evaluation or ()):
        raise ValueError(
            f"metric_for_best_model={metric!r} is a data set, of whose loss the lowest is the best: write {metric}_loss"
        )
    folder = args.output_dir if directory is None else directory
    source = resume if resume and not isinstance(resume, bool) else folder if resume else None
    if source is not None:
        expect_path(source, "resume", "True, or the path of the folder with the checkpoint")
    elif resume:
        raise ValueError("resume needs the directory that the checkpoint is in")
    return args, None if args.save_strategy == "no" else folder, source
