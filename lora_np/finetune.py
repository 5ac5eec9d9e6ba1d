"""The main job: fine-tune a LoRA adapter on text, and show what it did.

`finetune` is what `python -m lora_np` and `lora-np finetune` run. It loads a base, trains an adapter, compares
held-out losses and samples before and after, checks that the merged model computes the same, and writes the adapter
in PEFT's format with a picture of the run.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .autograd import manual_seed, no_grad
from .autograd.threads import shard_count
from .lora import LoraConfig, get_peft_model
from .lora.analysis import format_parameter_table
from .lora.memory import this_library
from .models import AutoModelForCausalLM, AutoTokenizer, ByteTokenizer
from .models.auto import TINY_PYTHON
from .storage import existing
from .tasks import make_task
from .training import TrainingArguments, evaluate, train
from .training.checkpoint import CHECKPOINT

ADAPTER = "adapter_config.json"

# What depends on the base: a tiny model learns fast, and in large batches of its whole context.
FOR_TINY = {"batch_size": 16, "learning_rate": 1e-2, "max_length": 256}
FOR_OTHERS = {"batch_size": 4, "learning_rate": 1e-3, "max_length": 256}


@dataclass(frozen=True)
class FinetuneOptions:
    """The choices of one fine-tuning run; each is an option of `lora-np finetune`.

    None for batch_size, learning_rate or max_length means what suits the base: see `resolved`.
    """

    base: str = TINY_PYTHON
    data: str | None = None
    out: str | None = None
    rank: int = 8
    alpha: float = 16
    target_modules: tuple | str = "all-linear"
    dropout: float = 0.0
    steps: int = 160
    batch_size: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    packing: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False

    def resolved(self, context):
        """These options with a number in the place of each None; `context` is the most tokens that the model reads."""
        suits = FOR_TINY if self.base == TINY_PYTHON else FOR_OTHERS
        missing = {name: value for name, value in suits.items() if getattr(self, name) is None}
        options = dataclasses.replace(self, **missing)
        length = min(options.max_length, context) if self.max_length is None else options.max_length
        if not 2 <= length <= context:
            raise ValueError(f"max_length must be from 2 to the model's context of {context}, got {length}")
        return dataclasses.replace(options, max_length=length)


def finetune(options, say=print):
    """Run the main job; returns {"history", "difference", "adapter", "picture"}.

    Errors in the input come before any training. `say` receives the lines of the report. After Ctrl-C the adapter so
    far is there, and a checkpoint to resume from.
    """
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    model = AutoModelForCausalLM.from_pretrained(options.base, device=options.device)
    options = options.resolved(model.config.max_position_embeddings)
    task = make_task(options, tokenizer, options.max_length)
    args, peft_model, out = _arguments(options), _adapted(model, options), _output_directory(options)
    peft_model.base_model.check_mergeable()
    _announce(peft_model, options, say)
    for line in task.notes:
        say(line)
    before = task.samples(peft_model)
    out.mkdir(parents=True, exist_ok=True)
    identity = _identity(options, task.train)
    history = train(peft_model, task.train, args, task.evaluation, out, options.resume, identity=identity)
    peft_model.save_pretrained(out)
    result = {"history": history, "difference": None, "adapter": out, "picture": None}
    if history["interrupted"]:
        done = len(history["loss"])
        say(f"\nStopped after step {done} of {options.steps}. The adapter so far and a checkpoint are in {out}.")
        say("The same command with --resume goes on from there.")
        return result
    unit = "nats per byte" if isinstance(tokenizer, ByteTokenizer) else "nats per token"
    _report_losses(peft_model, history, task.evaluation, unit, say)
    _report_samples(task, before, task.samples(peft_model), say)
    difference = result["difference"] = merge_difference(peft_model, task.ids[:4])
    say(f"\nMerged and unmerged logits differ by at most {difference:.1e}: the same model, at the base's cost.")
    result["picture"] = _draw(history, options, unit, out / "curves.png")
    size = (out / "adapter_model.safetensors").stat().st_size
    say(f"\nAdapter (PEFT format, {size / 1024:.0f} KiB): {out}\nPicture: {result['picture']}")
    return result


def _announce(peft_model, options, say):
    """What will be trained, and how much memory it will take."""
    config = peft_model.peft_config["default"]
    say(
        f"Base model {options.base}; LoRA of rank {config.r}, alpha {config.lora_alpha:g}, scaling {config.scaling:g}\n"
    )
    say(format_parameter_table(peft_model) + "\n")
    peft_model.print_trainable_parameters()
    say(_memory_line(peft_model.config.to_dict(), options) + "\n")


def _memory_line(fields, options):
    targets = options.target_modules if isinstance(options.target_modules, str) else list(options.target_modules)
    batch, length = options.batch_size, options.max_length
    shards = shard_count(batch, length) if options.device == "cpu" else 1
    try:
        parts = this_library(
            fields, options.rank, targets, batch=batch, length=length, dropout=options.dropout, shards=shards
        )
    except ValueError as error:
        return f"No estimate of the memory: {error}"
    weights, activations, total = (f"{parts[name] / 1e6:.0f}" for name in ("weights", "activations", "total"))
    trained = (parts["adapters"] + parts["gradients"] + parts["optimizer"]) / 1e6
    line = (
        f"A step of {options.batch_size} x {options.max_length} tokens takes about {total} MB: weights {weights}, "
        f"adapters with gradients and optimizer {trained:.1f}, activations {activations}"
    )
    return f"{line}; less here, as blocks are computed again" if options.gradient_checkpointing else line


def _adapted(model, options):
    """The model with a fresh adapter."""
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    manual_seed(options.seed)
    targets = options.target_modules if isinstance(options.target_modules, str) else list(options.target_modules)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    return get_peft_model(model, config)


def _output_directory(options):
    """Where the results go: as asked, or runs/ and the name of the data, with a number if that is taken.

    Nothing is made yet, and no other adapter is written over.
    """
    if options.out is None:
        return _free_directory(Path("runs") / (Path(options.data).stem if options.data else "prose"), options.resume)
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; it must be a directory, or a new name")
    if options.resume:
        existing(out / CHECKPOINT)
    elif (out / ADAPTER).exists() and not options.overwrite:
        raise ValueError(f"{out} holds an adapter already: choose another --out, or go on from it with --resume")
    return out


def _free_directory(first, resume):
    """`first`, or the name with the next number, -2, -3, ..., that holds no adapter; to resume, the last that does."""
    taken, out, number = None, first, 1
    while (out / ADAPTER).exists():
        taken, number = out, number + 1
        out = first.with_name(f"{first.name}-{number}")
    if resume:
        existing((taken or first) / CHECKPOINT)
        return taken or first
    return out


def _identity(options, train_data):
    """What makes a run this one and not another, besides how it is trained."""
    names = ("base", "rank", "alpha", "target_modules", "dropout", "batch_size", "max_length", "packing")
    data = hashlib.sha256(train_data.tokens.tobytes()).hexdigest()
    return {**{name: getattr(options, name) for name in names}, "data": data}


def _arguments(options):
    """How to train: a short warm-up, six evaluations."""
    return TrainingArguments(
        steps=options.steps,
        learning_rate=options.learning_rate,
        warmup_steps=min(10, options.steps // 10),
        eval_every=max(1, options.steps // 5),
        seed=options.seed,
    )


def _report_samples(task, before, after, say):
    """What the base and the adapted model answer to the same questions."""
    for (title, text), base, adapted in zip(task.questions, before, after, strict=True):
        say(f"\n{title}\n{_indented(text)}")
        for name, answer in (("The base writes", base), ("With the adapter", adapted)):
            say(f"\n{name}:\n{_indented(answer)}")


def _indented(text):
    return "\n".join(f"    {line}" for line in text.splitlines())


def _report_losses(peft_model, history, evaluation, unit, say):
    """Each held-out text's loss with the base, with the adapter, and with the adapter there but switched off."""
    with peft_model.disable_adapter():
        switched_off = {name: evaluate(peft_model, windows) for name, windows in evaluation.items()}
    first, last = history["evaluation"][0], history["evaluation"][-1]
    title = f"held-out loss, {unit}"
    say(f"\n{title}  {'base':>8} {'adapter':>8} {'adapter off':>12}")
    for name in switched_off:
        say(f"{name:<{len(title)}}  {first[name]:8.3f} {last[name]:8.3f} {switched_off[name]:12.3f}")


def merge_difference(peft_model, ids):
    """The largest difference between the logits of the merged and of the unmerged model on `ids`.

    RuntimeError if it is more than rounding can explain. The model is left unmerged.
    """
    with no_grad():
        unmerged = peft_model(ids).logits.numpy()
        peft_model.merge_adapter()
        merged = peft_model(ids).logits.numpy()
        peft_model.unmerge_adapter()
    difference = float(np.abs(merged - unmerged).max())
    allowed = 1e3 * np.finfo(unmerged.dtype).eps * float(np.abs(unmerged).max())
    if not difference <= allowed:
        raise RuntimeError(f"merged and unmerged logits differ by {difference:.1e}, more than rounding ({allowed:.1e})")
    return difference


def _draw(history, options, unit, path):
    from . import plots

    title = f"LoRA rank {options.rank} on {options.base}"
    plots.save(plots.training_curves(history, title, unit), path)
    return path


def option_defaults():
    """{name: default} of FinetuneOptions, for the command line."""
    return {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}
