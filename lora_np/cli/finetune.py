"""`lora-np finetune`, the main job: fine-tune a LoRA adapter on text, and show what it did.

`finetune` loads a base, trains an adapter, compares held-out losses and samples before and after, checks that the
merged model computes the same, and writes the adapter in PEFT's format with a picture of the run.
"""

import argparse
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..autograd import manual_seed
from ..costs.parameters import linear_layers
from ..lora import LoraConfig, PeftModel, get_peft_model
from ..models import AutoModelForCausalLM, AutoTokenizer, ByteTokenizer
from ..models.base import CausalLM
from ..models.rope import context_length
from ..storage import existing, read_json
from ..storage.fields import short
from ..training import CheckpointError, TrainingArguments, train
from ..training.checkpoint import check_resumable
from ..training.parallel import SoloCommunicator
from ..training.protocols import History
from .arguments import BASE, DTYPE, target_modules
from .model import base_of
from .options import FinetuneOptions, ResolvedOptions, option_defaults
from .output import ADAPTER, Output, chosen_folder, output_directory
from .parser import seed
from .report import Say, announce, draw, how_to_ask, merge_difference, report_losses, report_samples
from .task import DOCSTRINGS, Task, TrainingData, check_tokens, make_task
from .together import Others, in_processes, joined
from .waiting import waiting

COMPARED = ("base", "adapter", "rank", "alpha", "target_modules", "dropout", "batch_size", "max_length", "packing")
NAME = "finetune"
HELP = "train an adapter on your own data"
DESCRIPTION = """\
Train a LoRA adapter on your own data. The base model stays as it is; the adapter, a small file in PEFT's format, holds
everything learned. A part of the data is held out to measure what was learned. The data is a text file (about 3,000
characters at least), a folder of them, or a .jsonl file with one example per line: {"prompt": ..., "completion": ...},
{"messages": [{"role": ..., "content": ...}, ...]} or {"text": ...}; of prompts and messages, only the answers are
learnt. A JSON list of such examples, a .csv or a .tsv will do as well; instruction, input and output, question and
answer, and ShareGPT's conversations are read as messages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One argument for each of FinetuneOptions; the defaults are said there."""
    defaults = option_defaults()

    parser.add_argument("file", nargs="?", metavar="FILE", help="as --data FILE")

    def add(flag: str, text: str, **settings: Any) -> None:
        default = defaults[flag.removeprefix("--").replace("-", "_")]
        shown = "" if default is None or default is False else " (default: %(default)s)"
        parser.add_argument(flag, default=default, help=text + shown, **settings)

    add(
        "--data",
        "a UTF-8 text, a folder of texts, or a file of examples (.jsonl, .json, .csv, .tsv) to learn from, or "
        "'docstrings': functions of the standard library and the first line of their docstrings; without it, the prose "
        "of Python's help() pages",
        metavar="FILE",
    )
    add("--base", f"the base model: {BASE}", metavar="NAME")
    add("--out", "where adapter, checkpoint and picture go; without it, runs/ and the data's name", metavar="DIR")
    add("--adapter", "an adapter to go on from, instead of a new one", metavar="DIR")
    add("--rank", "rank of the update: A is rank x inputs, B is outputs x rank", type=int, metavar="R")
    add("--alpha", "the update is scaled by alpha / rank", type=float, metavar="X")
    targets = "layers that get an adapter: ends of their names (c_attn c_fc), a regular expression, or all-linear"
    add("--target-modules", targets, nargs="+", metavar="NAME")
    add("--dropout", "dropout in front of A, while training", type=float, metavar="P")
    add("--steps", "optimizer steps", type=int, metavar="N")
    add("--epochs", "instead of --steps: passes over the data", type=float, metavar="X")
    add("--batch-size", "windows or examples per step (default: 16 for tiny-python, else 4)", type=int, metavar="N")
    add("--learning-rate", "peak rate (default: 0.01 for tiny-python, else 0.001)", type=float, metavar="X")
    add("--max-length", "tokens in a window, or at most in an example (default: 256)", type=int, metavar="N")
    add("--packing", "several examples share a row, so that little is padding; none sees another", action="store_true")
    checkpointing = (
        "keep only each block's input and compute the rest again in the backward pass: slower, far less memory"
    )
    add("--gradient-checkpointing", checkpointing, action="store_true")
    processes = "processes that share each batch, on --device cuda each with a GPU of its own (default: %(default)s)"
    parser.add_argument("--processes", default=1, help=processes, type=int, metavar="N")
    add("--seed", "the same seed gives the same run", type=seed, metavar="N")
    add("--device", "cpu, cuda or cuda:N; a GPU needs CuPy")
    add("--dtype", DTYPE)
    add("--load-best", "in the end take the weights with the lowest held-out loss, not the last", action="store_true")
    going_on = "go on from the checkpoint in --out, all other options being the same; --steps may be more than before"
    add("--resume", going_on, action="store_true")
    labels = "what is learnt: classify = which label a text has, with a file of texts and labels; without it, to write"
    add("--task", labels, choices=["classify"])
    add("--overwrite", "write over the adapter that --out holds", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Fine-tune; status 130 if it was stopped."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(FinetuneOptions)}
    if options.file is not None:
        if options.data not in (None, options.file):
            raise ValueError(f"{options.file} and --data {options.data} both name the data: give one")
        given["data"] = options.file
    chosen = FinetuneOptions(**{**given, "target_modules": target_modules(options.target_modules)})
    return run_with(chosen, joined()) if options.processes == 1 else in_processes(options.processes, chosen)


def run_with(options: FinetuneOptions, others: Others) -> int:
    """Fine-tune together with the other processes, if there are any; the exit status."""
    ask = input if sys.stdin is not None and sys.stdin.isatty() else None
    result = finetune(options, ask=ask, communicator=others)
    return 130 if result["history"]["interrupted"] else 0


def finetune(
    options: FinetuneOptions,
    say: Say = print,
    ask: Callable[[str], str] | None = None,
    communicator: Others | None = None,
) -> dict[str, Any]:
    """Run the main job; returns {"history", "difference", "adapter", "picture"}.

    communicator: what connects several processes that each call this. Only the first of them writes and says anything;
    what the others return has "history" alone.

    Errors in the input come before any training, and so does what is wrong with the folder for the results. `say`
    receives the lines of the report. After Ctrl-C the adapter so far is there, and a checkpoint to resume from. Without
    matplotlib everything else is done, and "picture" is None. If the results cannot be written in the end, the disk
    being full, they go to another folder: `ask` is called with the question for one; without it, one is chosen.
    """
    options.check()
    others = communicator or SoloCommunicator()
    if others.rank == 0:
        chosen_folder(options)  # and once more when all is loaded: others may write meanwhile
    if options.data not in (None, DOCSTRINGS) and not os.path.isdir(options.data):
        existing(options.data)
    if others.size > 1 and options.device == "cuda":
        options = dataclasses.replace(options, device=f"cuda:{others.rank}")
    if options.task is not None:
        from .classify import classify  # it uses what is below

        return classify(options, say, ask, others)
    options = from_adapter(options)
    check_resumed(options)
    with waiting(f"Loading {options.base}"):
        tokenizer = AutoTokenizer.from_pretrained(options.base)
        model = AutoModelForCausalLM.from_pretrained(options.base, device=options.device, dtype=options.dtype)
    options = options.resolved(context_length(model.config), others.size)
    with waiting("Reading the data"):
        task = make_task(options, tokenizer, options.max_length)
    options = dataclasses.replace(options, steps=task.steps)
    check_resumed(options, task)
    with waiting("Adding the adapter"):
        peft_model = _adapted(model, options)
    peft_model.base_model.check_mergeable()
    if others.rank > 0:
        return {"history": _train(options, task, peft_model, None, others)}
    unit = "nats per byte" if isinstance(tokenizer, ByteTokenizer) else "nats per token"
    with output_directory(options) as folder:
        return _train_and_report(options, task, peft_model, unit, Output(folder, say, ask), others)


def _train_and_report(
    options: ResolvedOptions, task: Task, peft_model: PeftModel, unit: str, out: Output, others: Others
) -> dict[str, Any]:
    """What `finetune` returns."""
    say = out.say
    announce(peft_model, options, say, task.train.longest)
    for line in (*check_tokens(task, peft_model.get_base_model()), *task.notes):
        say(line)
    with waiting("Writing with the base"):
        before = task.samples(peft_model)
    history = _train(options, task, peft_model, out, others)
    out.write(peft_model.save_pretrained)
    result: dict[str, Any] = {"history": history, "difference": None, "adapter": out.folder, "picture": None}
    if history["interrupted"]:
        done = len(history["loss"])
        say(f"\nStopped after step {done} of {options.steps}. The adapter so far and a checkpoint are in {out.folder}.")
        say(f"The same command with --resume goes on from there{_moved(out.folder, options)}.")
        return result
    first = "before" if options.adapter else "base"
    with waiting("Measuring with the adapter switched off"):
        report_losses(peft_model, history, task.evaluation, unit, say, first)
    with waiting("Writing with the adapter"):
        after = task.samples(peft_model)
    report_samples(task, before, after, say, first)
    with waiting("Merging, to compare"):
        difference = result["difference"] = merge_difference(peft_model, task.ids[:4])
    say(f"\nMerged and unmerged logits differ by at most {difference:.1e}: the same model, at the base's cost.")
    result["picture"], picture_line = draw(history, options, unit, out.folder / "curves.png")
    size = (out.folder / "adapter_model.safetensors").stat().st_size
    say(f"\nAdapter (PEFT format, {size / 1024:.0f} KiB): {out.folder}\n{picture_line}")
    say(f"\nTo ask it:\n    {how_to_ask(task, out.folder)}")
    return result


def _train(
    options: ResolvedOptions, task: Any, peft_model: PeftModel, out: Output | None, others: Others, **more: Any
) -> History:
    """The history of the training. A last checkpoint that cannot be written goes to another folder.

    out: None in a process that writes nothing. more: what else makes this run this one.
    """
    args, identity = _training_arguments(options), {**_identity(options, task.train), **more}
    told = {"identity": identity, "communicator": others}
    if out is not None:
        folder: Path | None = out.folder
    else:
        folder = chosen_folder(options) if options.resume else None  # it reads the checkpoint, and writes none
    try:
        return train(peft_model, task.train, args, task.evaluation, folder, options.resume, **told)
    except CheckpointError as error:
        if out is None:
            raise
        out.write(error.run.save)
        return error.history


def check_resumed(options: FinetuneOptions, task: Any = None, **more: Any) -> None:
    """With --resume: ValueError if the checkpoint is of another run, as far as that is known before the training.

    task, more: as in `_train`, once the data is read and the options are resolved; without, what is given is compared.
    """
    if not options.resume:
        return
    if task is not None and isinstance(options, ResolvedOptions):
        known = {**_training_arguments(options).numbers(), **_identity(options, task.train), **more}
    else:
        names = (*COMPARED, "seed", "learning_rate", "load_best", *(("steps",) if options.epochs is None else ()))
        known = {name: value for name in names if (value := getattr(options, name)) is not None}
    check_resumable(chosen_folder(options), known)


def _moved(folder: Path, options: ResolvedOptions) -> str:
    """What must be added to the command if the results went to another folder than was asked for."""
    return f", with --out {folder}" if options.out is not None and Path(options.out) != folder else ""


def from_adapter(options: FinetuneOptions) -> FinetuneOptions:
    """The options with what follows from the adapter to go on from, if there is one: its base, rank, alpha, targets.

    ValueError if something else is asked for (what an adapter is does not change), or it is of another kind than LoRA.
    """
    if options.adapter is None:
        return options
    config = read_json(Path(options.adapter) / ADAPTER)
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise ValueError(f"{options.adapter} is an adapter of the kind {short(kind)}; this goes on from LoRA's only")
    for name in ("rank", "alpha", "target_modules", "dropout"):
        if getattr(options, name) != getattr(FinetuneOptions, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is for a new adapter; {options.adapter} keeps its own: leave it out"
            )
    base = base_of(options.adapter) if options.base == FinetuneOptions.base else options.base
    found = {"rank": config.get("r"), "alpha": config.get("lora_alpha"), "dropout": config.get("lora_dropout")}
    own: dict[str, Any] = {name: value for name, value in found.items() if isinstance(value, int | float)}
    targets = config.get("target_modules")
    if targets:
        own["target_modules"] = targets if isinstance(targets, str) else tuple(sorted(targets))
    return dataclasses.replace(options, base=base, **own)


def _adapted(model: CausalLM, options: ResolvedOptions) -> PeftModel:
    """The model with a fresh adapter, or the one to go on from."""
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    manual_seed(options.seed)
    if options.adapter is not None:
        return PeftModel.from_pretrained(model, options.adapter, is_trainable=True)
    return with_new_adapter(model, options, "CAUSAL_LM")


def with_new_adapter(model: Any, options: ResolvedOptions, task_type: str) -> PeftModel:
    """The model with a fresh adapter for a task. ValueError if its rank is above the size of every layer."""
    largest = max(map(max, linear_layers(model.config.to_dict()).values()))
    if options.rank > largest:
        raise ValueError(f"rank {options.rank} is above the size of every layer (the largest has {largest}): take less")
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=options.targets,
        task_type=task_type,
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    return get_peft_model(model, config)


def _identity(options: ResolvedOptions, train_data: TrainingData) -> dict[str, Any]:
    """What makes a run this one and not another, besides how it is trained."""
    data = hashlib.sha256(train_data.tokens.tobytes()).hexdigest()
    return {**{name: getattr(options, name) for name in COMPARED}, "data": data}


def _training_arguments(options: ResolvedOptions) -> TrainingArguments:
    """How to train: a short warm-up, six evaluations."""
    return TrainingArguments(
        steps=options.steps,
        learning_rate=options.learning_rate,
        warmup_steps=min(10, options.steps // 10),
        eval_every=max(1, options.steps // 5),
        seed=options.seed,
        load_best=options.load_best,
    )
