"""What the main job says: the run that is planned, the losses and texts before and after, the merge, the picture."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import no_grad
from ..autograd.float_types import finfo, in_16_bits, widened
from ..extras import MissingPackageError
from ..lora import PeftModel
from ..lora.analysis import format_parameter_table
from ..training import evaluate
from .memory import memory_line
from .options import FinetuneOptions
from .task import Task

Say = Callable[[str], object]  # takes the lines of the report: `print`, or a list's `append`


def announce(peft_model: PeftModel, options: FinetuneOptions, say: Say, longest: int | None = None) -> None:
    """What will be trained, and how much memory it will take, with rows of at most `longest` tokens."""
    config: Any = peft_model.peft_config["default"]  # a LoraConfig
    say(
        f"Base model {options.base}; LoRA of rank {config.r}, alpha {config.lora_alpha:g}, scaling {config.scaling:g}\n"
    )
    say(format_parameter_table(peft_model) + "\n")
    peft_model.print_trainable_parameters()
    say(memory_line(peft_model.config.to_dict(), options, longest) + "\n")


def report_losses(
    peft_model: PeftModel,
    history: dict[str, Any],
    evaluation: dict[str, Any],
    unit: str,
    say: Say,
    before: str = "base",
) -> None:
    """Each held-out text's loss before the run (with the base, or an adapter that it began with), with the adapter, and
    with the adapter there but switched off. `before`: what the first of these is called."""
    with peft_model.disable_adapter():
        switched_off = {name: evaluate(peft_model, held_out) for name, held_out in evaluation.items()}
    first, last = history["evaluation"][0], history.get("best", history["evaluation"][-1])
    if "best" in history:
        say(f"\nThe weights are those after step {last['step']}, which had the lowest held-out loss.")
    title = f"held-out loss, {unit}"
    say(f"\n{title}  {before:>8} {'adapter':>8} {'adapter off':>12}")
    for name in switched_off:
        say(f"{name:<{len(title)}}  {first[name]:8.3f} {last[name]:8.3f} {switched_off[name]:12.3f}")


def report_samples(task: Task, before: list[str], after: list[str], say: Say, first: str = "base") -> None:
    """What the base (or, `first`, the adapter before) and the adapted model answer to the same questions."""
    titles = ("The base writes" if first == "base" else "Before, the adapter writes", "With the adapter")
    for (title, text), base, adapted in zip(task.questions, before, after, strict=True):
        say(f"\n{title}\n{_indented(text)}")
        for name, answer in zip(titles, (base, adapted), strict=True):
            say(f"\n{name}:\n{_indented(answer)}")


def how_to_ask(task: Task, adapter: Path) -> str:
    """The command that asks the model with the adapter something of the kind that it has learnt."""
    as_text, asked = task.asks
    raw = " --raw" if as_text and task.tokenizer.chat_template else ""
    shown = asked if 0 < len(asked) <= 80 and asked.isprintable() and asked[:1] != "-" else "..."
    return f"lora-np generate{raw} --adapter {shlex.quote(str(adapter))} {shlex.quote(shown)}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def merge_difference(peft_model: PeftModel, ids: np.ndarray) -> float:
    """The largest difference between the logits of the merged and of the unmerged model on `ids`.

    RuntimeError if it is more than rounding can explain. The model is left unmerged.
    """
    with no_grad():
        unmerged = widened(peft_model(ids).logits.numpy())
        peft_model.merge_adapter()
        merged = widened(peft_model(ids).logits.numpy())
        peft_model.unmerge_adapter()
    difference = float(np.abs(merged - unmerged).max())
    weights = peft_model.get_base_model().dtype  # in 16 bits W + ΔW is rounded to that, which is most of the difference
    step = 32 * finfo(weights).eps if in_16_bits(weights) else 1e3 * finfo(unmerged.dtype).eps
    allowed = float(step) * float(np.abs(unmerged).max())
    if not difference <= allowed:
        raise RuntimeError(f"merged and unmerged logits differ by {difference:.1e}, more than rounding ({allowed:.1e})")
    return difference


def draw(history: dict[str, Any], options: FinetuneOptions, unit: str, path: Path) -> tuple[Path | None, str]:
    """Draw the run; returns (path, a line about it). If it cannot be drawn or written, (None, a line that says so)."""
    from .. import plots

    title = f"LoRA rank {options.rank} on {options.base}"
    try:
        figure = plots.training_curves(history, title, unit)
        plots.save(figure, path)
    except (MissingPackageError, OSError) as error:  # the adapter is what counts
        return None, f"The picture was left out: {error}"
    return path, f"Picture: {path}"
