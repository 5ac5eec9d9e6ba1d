"""What a training run is told."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..expect import expect, expect_method
from ..nn import Module

A_MODEL = "a model, such as AutoModelForCausalLM.from_pretrained(...) or get_peft_model(...) gives it"
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

    def __post_init__(self) -> None:
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


def check_given(model: Any, data: Any, args: Any, evaluation: Any) -> None:
    """TypeError or ValueError that names the argument of `train` which is not what it should be."""
    expect(model, Module, "train(model, data, args): model", A_MODEL)
    expect_method(data, "batch", "train(model, data, args): data", SOME_DATA)
    expect(args, TrainingArguments, "train(model, data, args): args", "TrainingArguments(steps=..., ...)")
    expect(evaluation, Mapping | None, "train(evaluation=...)", "a dict {name: what evaluate() takes}")
    if args.load_best and not evaluation:
        raise ValueError("load_best needs an evaluation that says which weights are best: train(evaluation={name: data})")
