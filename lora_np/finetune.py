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
from .lora import LoraConfig, get_peft_model
from .lora.analysis import format_parameter_table
from .models import AutoModelForCausalLM, AutoTokenizer
from .models.auto import TINY_PYTHON
from .storage import existing
from .training import TextData, TrainingArguments, evaluate, load_text, prose_documents, python_documents, train
from .training.data import hold_out_last, split_documents
from .training.loop import CHECKPOINT

EVALUATION_WINDOWS, SAMPLE_LENGTH = 64, 240


@dataclass(frozen=True)
class FinetuneOptions:
    """The choices of one fine-tuning run; each is an option of `lora-np finetune`."""

    base: str = TINY_PYTHON
    data: str | None = None
    out: str | None = None
    rank: int = 8
    alpha: float = 16
    target_modules: tuple | str = "all-linear"
    dropout: float = 0.0
    steps: int = 160
    batch_size: int = 16
    learning_rate: float = 1e-2
    seed: int = 0
    device: str = "cpu"
    resume: bool = False


def finetune(options, say=print):
    """Run the main job; returns {"history", "difference", "adapter", "picture"}.

    Errors in the input come before any training. `say` receives the lines of the report. After Ctrl-C the adapter so
    far is there, and a checkpoint to resume from.
    """
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    model = AutoModelForCausalLM.from_pretrained(options.base, device=options.device)
    train_data, evaluation = _read_data(options, tokenizer, model.config.n_positions)
    args, peft_model, out = _arguments(options), _adapted(model, options), _output_directory(options)
    peft_model.base_model.check_mergeable()
    config = peft_model.peft_config["default"]
    say(
        f"Base model {options.base}; LoRA of rank {config.r}, alpha {config.lora_alpha:g}, scaling {config.scaling:g}\n"
    )
    say(format_parameter_table(peft_model) + "\n")
    peft_model.print_trainable_parameters()
    prompt = _prompt(evaluation, tokenizer)
    before = _sample(peft_model, tokenizer, prompt, options.seed)
    out.mkdir(parents=True, exist_ok=True)
    identity = _identity(options, train_data)
    history = train(peft_model, train_data, args, evaluation, out, options.resume, identity=identity)
    peft_model.save_pretrained(out)
    result = {"history": history, "difference": None, "adapter": out, "picture": None}
    if history["interrupted"]:
        done = len(history["loss"])
        say(f"\nStopped after step {done} of {options.steps}. The adapter so far and a checkpoint are in {out}.")
        say("The same command with --resume goes on from there.")
        return result
    _report_losses(peft_model, history, evaluation, say)
    after = _sample(peft_model, tokenizer, prompt, options.seed)
    say(f"\nHeld-out text to go on from:\n{_indented(prompt)}")
    for title, text in (("The base writes on", before), ("With the adapter", after)):
        say(f"\n{title}:\n{_indented(text)}")
    difference = result["difference"] = merge_difference(peft_model, next(iter(evaluation.values()))[:4])
    say(f"\nMerged and unmerged logits differ by at most {difference:.1e}: the same model, at the base's cost.")
    result["picture"] = _draw(history, options, out / "curves.png")
    size = (out / "adapter_model.safetensors").stat().st_size
    say(f"\nAdapter (PEFT format, {size / 1024:.0f} KiB): {out}\nPicture: {result['picture']}")
    return result


def _adapted(model, options):
    """The model with a fresh adapter."""
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
    """Where the results go: as asked, or runs/ and the name of the text. Nothing is made yet."""
    out = Path(options.out or f"runs/{Path(options.data).stem if options.data else 'prose'}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; it must be a directory, or a new name")
    if options.resume:
        existing(out / CHECKPOINT)
    return out


def _identity(options, train_data):
    """What makes a run this one and not another, besides how it is trained."""
    names = ("base", "rank", "alpha", "target_modules", "dropout", "batch_size")
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


def _read_data(options, tokenizer, window):
    """(training data, {name: held-out windows}): the chosen text first, then what the base was trained on, if known."""
    if options.data is None:
        parts, name = split_documents(prose_documents()), "English prose"
    else:
        parts, name = hold_out_last(load_text(options.data)), Path(options.data).name
    tokens = {
        part: TextData(parts[part], tokenizer, window, options.batch_size, f"{name} ({what})")
        for part, what in (("train", "the part to learn from"), ("test", "the part held out"))
    }
    held_out = {name: tokens["test"]}
    if options.base == TINY_PYTHON:
        source = split_documents(python_documents(), held_out=0.05)["test"]
        held_out["Python source"] = TextData(source, tokenizer, window, options.batch_size)
    return tokens["train"], {name: _spread(text.windows()) for name, text in held_out.items()}


def _spread(windows):
    """At most EVALUATION_WINDOWS windows, evenly spread over all."""
    if len(windows) <= EVALUATION_WINDOWS:
        return windows
    return windows[np.linspace(0, len(windows) - 1, EVALUATION_WINDOWS).astype(int)]


def _prompt(evaluation, tokenizer, length=150):
    """The beginning of a held-out window, up to a space."""
    text = tokenizer.decode(next(iter(evaluation.values()))[1, :length])
    return text.rpartition(" ")[0] + " "


def _sample(model, tokenizer, prompt, seed):
    ids = tokenizer(prompt)["input_ids"]
    text = model.generate(ids, max_new_tokens=SAMPLE_LENGTH, do_sample=True, temperature=0.7, top_p=0.95, seed=seed)
    return tokenizer.decode(text[0, ids.shape[1] :])


def _indented(text):
    return "\n".join(f"    {line}" for line in text.splitlines())


def _report_losses(peft_model, history, evaluation, say):
    """Each held-out text's loss with the base, with the adapter, and with the adapter there but switched off."""
    with peft_model.disable_adapter():
        switched_off = {name: evaluate(peft_model, windows) for name, windows in evaluation.items()}
    first, last = history["evaluation"][0], history["evaluation"][-1]
    title = "held-out loss, nats per byte"
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


def _draw(history, options, path):
    from . import plots

    title = f"LoRA rank {options.rank} on {options.base}"
    plots.save(plots.training_curves(history, title), path)
    return path


def option_defaults():
    """{name: default} of FinetuneOptions, for the command line."""
    return {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}
