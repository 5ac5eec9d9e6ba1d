"""The memory that a training step takes, as `finetune` and `params` tell it."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.threads import shard_count
from ..costs.memory import METHODS, memory
from ..costs.step_memory import estimate_step_memory
from ..models.loading.options import wanted_dtype
from .options import FinetuneOptions


def memory_line(fields: dict[str, Any], options: FinetuneOptions, longest: int | None = None) -> str:
    """What a step of this run takes here, in one line. `fields`: of the model's config.json.

    longest: the tokens of the longest row there is, where that may be less than max_length.
    """
    batch, length = options.batch_size, options.max_length if longest is None else longest
    shards = shard_count(batch, length) if options.device == "cpu" else 1
    try:
        parts = estimate_step_memory(
            fields,
            options.rank,
            options.targets,
            batch=batch,
            length=length,
            dropout=options.dropout,
            shards=shards,
            checkpointing=options.gradient_checkpointing,
        )
    except ValueError as error:
        return f"No estimate of the memory: {error}"
    bytes_each = (wanted_dtype(options.dtype) or np.dtype(np.float32)).itemsize
    stored = parts["weights"] // 4 * bytes_each  # they are counted in float32
    parts |= {"weights": stored, "total": parts["total"] - parts["weights"] + stored}
    weights, activations, total = (f"{parts[name] / 1e6:.0f}" for name in ("weights", "activations", "total"))
    trained = (parts["adapters"] + parts["gradients"] + parts["optimizer"]) / 1e6
    again = ", blocks computed again" if options.gradient_checkpointing else ""
    return (
        f"A step of {batch} x {length} tokens takes about {total} MB: weights {weights}, "
        f"adapters with gradients and optimizer {trained:.1f}, activations {activations}{again}"
    )


def say_memory_table(
    fields: dict[str, Any],
    rank: int,
    target_modules: str | tuple[str, ...],
    batch: int,
    length: int,
    say: Callable[[str], object],
) -> None:
    """A step of full training, LoRA and QLoRA by the usual reckoning, and of LoRA in this library."""
    say(f"\nA training step of {batch} x {length} tokens at rank {rank}, in MB. Weights in bfloat16, an estimate:")
    say(f"{'':>6} {'weights':>10} {'gradients':>10} {'optimizer':>10} {'activations':>12} {'all':>10}")
    for method in METHODS:
        say(_row(method, memory(fields, rank, target_modules, batch=batch, length=length, method=method)))
    with contextlib.suppress(ValueError):  # a model, or a target, that is not followed
        parts = estimate_step_memory(fields, rank, target_modules, batch=batch, length=length)
        say("What lora-np finetune takes, everything in float32:")
        say(_row("lora", parts))


def _row(name: str, parts: dict[str, int]) -> str:
    """One line of the table, in MB."""
    weights = parts["weights"] + parts["adapters"]
    columns = (weights, *(parts[part] for part in ("gradients", "optimizer", "activations", "total")))
    numbers = [f"{value / 1e6:,.1f}" for value in columns]
    return "{:>6} {:>10} {:>10} {:>10} {:>12} {:>10}".format(name, *numbers)
