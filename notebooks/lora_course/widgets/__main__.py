"""A page with all six widgets: `python -m lora_course.widgets --out widgets.html`. It opens from the disk."""

import argparse
from pathlib import Path

import numpy as np

from lora_course import Adaptation
from lora_course.adaptation import PROSE
from lora_np import LoraConfig, TextData, TrainingArguments, evaluate, get_peft_model, manual_seed, train
from lora_np.training import prose_documents
from lora_np.training.data import split_documents

from . import attention_view, gradient_walk, memory_calculator, mixing_slider, rank_slider, rate_map

LAYERS = ("h.1.attn.c_proj", "h.3.mlp.c_proj")


def capitals_model(steps, windows):
    """(model with an adapter for CAPITALS, tokenizer, {name: held-out windows}), trained here."""
    task, parts = Adaptation(steps=steps, evaluations=windows), split_documents(prose_documents())
    upper = {part: {name: text.upper() for name, text in parts[part].items()} for part in ("train", "test")}
    manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", fan_in_fan_out=True)
    model = get_peft_model(task.base(), config, "capitals")
    arguments = TrainingArguments(steps=steps, learning_rate=1e-2, eval_every=steps)
    train(model, TextData(upper["train"], task.tokenizer, 256, 16), arguments, progress=False)
    held_out = TextData(upper["test"], task.tokenizer, 256, 16).windows()[:windows]
    return model, task.tokenizer, {"prose": task.evaluation[PROSE], "capitals": held_out}


def cuts_of_full_training(steps, windows, ranks=(0, 1, 2, 4, 8, 16, 32, 64, 128)):
    """The arguments of `rank_slider`, from a full training that is run here."""
    task = Adaptation(steps=steps, evaluations=windows)
    base, outcome = task.base(), task.run("full", 1e-3)
    before, after = base.state_dict(), outcome.model.state_dict()
    names = [n for n in before if n.startswith("transformer.h.") and before[n].ndim == 2]
    update = {n: after[n].T - before[n].T for n in names}
    pieces = {n: np.linalg.svd(update[n], full_matrices=False) for n in names}
    losses = {}
    for k in ranks:
        cut = {n: before[n] + ((U[:, :k] * S[:k]) @ Vt[:k]).T for n, (U, S, Vt) in pieces.items()}
        model = task.base()
        model.load_state_dict({**before, **cut})
        losses[k] = evaluate(model, task.evaluation[PROSE])
    shown = {layer: update[f"transformer.{layer}.weight"] for layer in LAYERS}
    return shown, losses, evaluate(base, task.evaluation[PROSE]), outcome.prose


def page(steps, windows):
    """HTML of a page with all six."""
    widgets = [
        gradient_walk(),
        attention_view(),
        rate_map(),
        memory_calculator(),
        _mixing(steps, windows),
        rank_slider(*cuts_of_full_training(steps, windows)),
    ]
    body = "\n".join(widget._repr_html_() for widget in widgets)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!doctype html><html lang="en"><head>{head}<title>Widgets</title></head><body>{body}</body></html>'


def _mixing(steps, windows):
    model, tokenizer, held_out = capitals_model(steps, windows)
    return mixing_slider(model, tokenizer, "capitals", held_out)


def main():
    """Read the command line, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="widgets.html", help="the page (default %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of each training (default %(default)s)")
    parser.add_argument("--windows", type=int, default=16, help="of each held-out text (default %(default)s)")
    options = parser.parse_args()
    Path(options.out).write_text(page(options.steps, options.windows), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
