"""What a training run is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..expect import A_MODEL, expect, expect_list, expect_method, expect_number, expect_path, expect_whole
from ..nn import Module
from ..settings import changed_settings
from .evaluation import expect_evaluated

TWO_BETAS = "two numbers in [0, 1), the first for the mean and the second for the squares"
SOME_DATA = "a data set with batch(seed, step), such as TextData or ExampleData"


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
    load_best          in the end, and after Ctrl-C, the model has the weights of the evaluation with the lowest loss on
                       the first data set, not the last ones (Transformers: load_best_model_at_end). What the run began
                       with is evaluated too. The checkpoint holds both
    """

    steps: int = 200
    learning_rate: float = 1e-3
    warmup_steps: int = 10
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

    __repr__ = changed_settings

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("warmup_steps", "seed"):
            expect_whole(getattr(self, name), name, least=0)
        for name in ("learning_rate", "loraplus_lr_ratio"):
            expect_number(getattr(self, name), name, positive=True)
        for name in ("min_lr_ratio", "weight_decay", "max_grad_norm"):
            expect_number(getattr(self, name), name)
        if len(expect_list(self.betas, "betas", TWO_BETAS)) != 2:
            raise ValueError(f"betas should be {TWO_BETAS}, got {self.betas!r}")
        for beta in self.betas:
            expect_number(beta, "each of betas")
            if beta >= 1:
                raise ValueError(f"each of betas must be below 1, got {beta}")
        expect(self.load_best, bool, "load_best", "True or False")


def check_given(
    model: Any, data: Any, args: Any, evaluation: Any, directory: Any, identity: Any, communicator: Any
) -> None:
    """TypeError or ValueError that names an argument of `train` which is not what it should be."""
    expect(model, Module, "model", A_MODEL)
    expect_method(data, "batch", "data", SOME_DATA)
    expect(args, TrainingArguments, "args", "TrainingArguments(steps=..., ...)")
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
    if args.load_best and not evaluation:
        raise ValueError(
            "load_best needs an evaluation that says which weights are best: train(evaluation={name: data})"
        )
