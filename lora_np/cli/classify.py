"""`lora-np finetune --task classify`: an adapter that tells classes of texts apart, and how often it is right.

The classes are those of a file of texts and labels. A part of it is held out; accuracy on that is shown, before and
after.
The adapter's folder also gets a config.json with the names of the classes: Transformers' AutoConfig reads it.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import manual_seed
from ..autograd.float_types import in_16_bits
from ..lora import PeftModel
from ..lora.analysis import format_parameter_table
from ..models import AutoModelForSequenceClassification, AutoTokenizer
from ..models.rope import context_length
from ..models.tokenizers.base import BaseTokenizer
from ..storage import together, write_json
from ..training import LabelledData, accuracy, load_labelled, split_labelled
from ..training.labelled import Labelled, predicted
from ..training.protocols import History
from .finetune import _moved, _train, check_resumed, with_new_adapter
from .model import check_vocabulary, how_to_classify
from .options import FinetuneOptions, ResolvedOptions
from .output import Output, output_directory
from .report import Say, draw, merge_difference, report_losses
from .task import measured_on_few, planned_steps
from .together import Others

SHOWN, UNIT = 3, "nats per text"


class ClassifyTask:
    """Texts and labels to learn from, and others that were held out.

    steps              how many the run has
    train, held_out    the data that is learnt, and the rest
    evaluation         {name: held_out}, as `train` takes it
    """

    def __init__(self, data: Labelled, options: ResolvedOptions, tokenizer: BaseTokenizer, pad_token_id: int) -> None:
        parts = split_labelled(data, seed=options.seed)
        window, size = options.max_length, options.batch_size
        made = {side: LabelledData(part, tokenizer, window, size, pad_token_id) for side, part in parts.items()}
        self.train, self.held_out, self.names = made["train"], made["validation"], data.names
        self.evaluation = {Path(str(options.data)).name: self.held_out}
        self.shown = parts["validation"].rows(range(min(SHOWN, self.held_out.rows)))
        self.majority = float(np.bincount(self.held_out.labels).max() / self.held_out.rows)
        self.steps = planned_steps(options, self.train)
        passes = self.steps * size / self.train.rows
        counts = f"{self.train.rows:,} texts to learn from ({passes:.1f} passes), {self.held_out.rows:,} held out\n"
        cut = self.train.cut + self.held_out.cut
        long = [f"Note: {cut} texts are longer than {window} tokens and are cut: a larger --max-length keeps more"]
        few = measured_on_few(self.held_out.rows, "text")
        self.notes = [f"{options.data}: {data}", *(long if cut else []), *few, counts]

    def answers(self, model: PeftModel) -> list[str]:
        """The name of the class that the model finds for each of the texts that are shown."""
        return [self.names[number] for number in predicted(model, self.held_out.padded(range(len(self.shown.texts))))]


def classify(options: FinetuneOptions, say: Say, ask: Callable[[str], str] | None, others: Others) -> dict[str, Any]:
    """The main job for classes: what `finetune` returns, and "accuracy", (before, after) on what was held out.

    Errors in the input come before any training. ValueError if no data is given, or as `load_labelled` says.
    """
    if options.data is None:
        raise ValueError("--task classify needs --data: a .csv, .tsv, .jsonl or .json file of texts and labels")
    if options.adapter is not None:
        raise ValueError("--adapter goes on from an adapter that writes; --task classify begins a new one")
    check_resumed(options)
    data, tokenizer = load_labelled(options.data), AutoTokenizer.from_pretrained(options.base)
    model = _classifier(data, options, tokenizer)
    options = options.resolved(context_length(model.config), others.size)
    task = ClassifyTask(data, options, tokenizer, model.config.pad_token_id)
    options = dataclasses.replace(options, steps=task.steps)
    labels = hashlib.sha256(task.train.labels.tobytes()).hexdigest()
    learnt = {"learns": options.task, "classes": task.names, "labels": labels}
    check_resumed(options, task, **learnt)
    highest = max(int(part.tokens.max()) for part in (task.train, task.held_out))
    check_vocabulary("data", highest, tokenizer, model.config.vocab_size)
    peft_model = _adapted(model, options)
    peft_model.base_model.check_mergeable()
    if others.rank > 0:
        return {"history": _train(options, task, peft_model, None, others, **learnt)}
    with output_directory(options) as folder:
        out = Output(folder, say, ask)
        return _report(options, task, peft_model, out, lambda: _train(options, task, peft_model, out, others, **learnt))


def _classifier(data: Labelled, options: FinetuneOptions, tokenizer: BaseTokenizer) -> Any:
    """The base with a new head for these classes."""
    manual_seed(options.seed)
    names = dict(enumerate(data.names))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*newly initialized")  # that is what is trained here
        model = AutoModelForSequenceClassification.from_pretrained(
            options.base,
            id2label=names,
            problem_type="single_label_classification",
            ignore_mismatched_sizes=True,
            dtype=options.dtype,
        )
    if model.config.pad_token_id is None or not 0 <= model.config.pad_token_id < model.config.vocab_size:
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        model.config.pad_token_id = next((i for i in known if i is not None and i < model.config.vocab_size), 0)
    return model.to(options.device)


def _adapted(model: Any, options: ResolvedOptions) -> PeftModel:
    """The classifier with a fresh adapter, in float32 beside a base in 16 bits, and so is the new head."""
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    peft_model = with_new_adapter(model, options, "SEQ_CLS")
    for p in peft_model.parameters():
        if p.requires_grad and in_16_bits(p.dtype):
            p.data = p.data.astype(np.float32)
    return peft_model


def _report(
    options: ResolvedOptions, task: ClassifyTask, peft_model: PeftModel, out: Output, run: Callable[[], History]
) -> dict[str, Any]:
    """What `classify` returns."""
    say = out.say
    for line in task.notes:
        say(line)
    say(format_parameter_table(peft_model) + "\n")
    peft_model.print_trainable_parameters()
    before, answers = accuracy(peft_model, task.held_out), task.answers(peft_model)
    history = run()
    out.write(lambda folder: save(peft_model, folder))
    result: dict[str, Any] = {"history": history, "difference": None, "adapter": out.folder, "picture": None}
    result["accuracy"] = before, accuracy(peft_model, task.held_out)
    if history["interrupted"]:
        done = len(history["loss"])
        say(f"\nStopped after step {done} of {options.steps}. The adapter so far and a checkpoint are in {out.folder}.")
        say(f"The same command with --resume goes on from there{_moved(out.folder, options)}.")
        return result
    report_losses(peft_model, history, task.evaluation, UNIT, say)
    _report_accuracy(task, result["accuracy"], answers, task.answers(peft_model), say)
    batch = task.held_out.padded(range(1))
    difference = result["difference"] = merge_difference(peft_model, batch["input_ids"])
    say(f"\nMerged and unmerged scores differ by at most {difference:.1e}: the same model, at the base's cost.")
    result["picture"], picture_line = draw(history, options, UNIT, out.folder / "curves.png")
    size = (out.folder / "adapter_model.safetensors").stat().st_size
    say(f"\nAdapter (PEFT format, {size / 1024:.0f} KiB): {out.folder}\n{picture_line}")
    say("\nTo ask it, in Python:\n    " + how_to_classify(out.folder, options.base).replace("; ", "\n    "))
    return result


def save(peft_model: PeftModel, folder: Path) -> None:
    """Write the adapter, and beside it a config.json that has the names of its classes."""
    with together(folder):
        peft_model.save_pretrained(folder)
        write_json(folder / "config.json", peft_model.get_base_model().config_fields())


def _report_accuracy(
    task: ClassifyTask, accuracies: tuple[float, float], before: list[str], after: list[str], say: Say
) -> None:
    """How often the right class is found, before and after, and the answers for some texts."""
    first, last = accuracies
    say(f"\nheld-out accuracy: {first:.1%} before, {last:.1%} after (the most frequent class: {task.majority:.1%})")
    for text, label, base, adapted in zip(task.shown.texts, task.shown.labels, before, after, strict=True):
        shown = text if len(text) <= 200 else f"{text[:200]} ..."
        say(f"\n    {shown}\n  label {task.names[label]!r}; before: {base!r}; with the adapter: {adapted!r}")
