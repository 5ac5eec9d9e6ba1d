"""What the command line does with a model that is there: write on, chat, merge an adapter, count parameters."""

import contextlib
import sys
import time
from pathlib import Path

from .lora import PeftModel, sizes
from .lora.memory import METHODS, memory
from .lora.memory import this_library as memory_here
from .models import AutoModelForCausalLM, AutoTokenizer
from .models.auto import TINY_PYTHON, config_fields
from .storage import read_json

CHAT_MODEL = "smollm2"


def load(base=None, adapter=None, device="cpu"):
    """(model, tokenizer): the base, with the adapter in the directory `adapter` if there is one.

    Without `base`, it is the one that the adapter names, or the shipped model.
    """
    if base is None and adapter is not None:
        base = read_json(Path(adapter) / "adapter_config.json").get("base_model_name_or_path")
        if not isinstance(base, str):
            raise ValueError(f"{adapter} does not say which base model it belongs to: give --base")
    base = base or TINY_PYTHON
    model = AutoModelForCausalLM.from_pretrained(base, device=device)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    return model, AutoTokenizer.from_pretrained(base)


def write(model, tokenizer, prompt, out, **options):
    """Continue the text `prompt`, writing to the stream `out` as the tokens come; returns (text, tokens, seconds)."""
    if not prompt:
        raise ValueError("the prompt is empty: there is nothing to go on from")
    ids = tokenizer(prompt, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    began, tokens, text = time.perf_counter(), [], ""
    for piece in tokenizer.decode_stream(_ids(model, ids, tokens, options), skip_special_tokens=True):
        out.write(piece)
        out.flush()
        text += piece
    return text, len(tokens), time.perf_counter() - began


def _ids(model, ids, tokens, options):
    """The ids that the model writes, one by one; each is also put into `tokens`."""
    for (token,) in model.stream(ids, **options):
        tokens.append(int(token))
        yield tokens[-1]


def generate(base, adapter, prompt, raw=False, device="cpu", out=None, **options):
    """Print what the model writes. With a chat template, the prompt is a user's message, unless `raw`."""
    out = out or sys.stdout
    model, tokenizer = load(base, adapter, device)
    if tokenizer.chat_template and not raw:
        messages = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    else:
        out.write(prompt)
    _, tokens, seconds = write(model, tokenizer, prompt, out, **options)
    out.write("\n")
    print(f"[{tokens} tokens, {tokens / seconds:.1f} a second]", file=sys.stderr)


def chat(base, adapter, system=None, device="cpu", lines=None, out=None, **options):
    """Talk: each line of `lines` (standard input) is a message, answered with the conversation so far in view.

    A line /reset begins anew, /quit ends, as does the end of the input.
    """
    out = out or sys.stdout
    model, tokenizer = load(base or (None if adapter else CHAT_MODEL), adapter, device)
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template, it was not trained to chat: use  lora-np generate")
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    interactive = lines is None and sys.stdin.isatty()
    if interactive:
        out.write("/reset begins anew, /quit ends.\n")
    for line in _prompted(lines or sys.stdin, out if interactive else None):
        if line == "/quit":
            break
        if line == "/reset":
            messages = list(start)
            continue
        if line.startswith("/"):
            out.write(f"There is no {line}; there are /reset and /quit.\n")
            continue
        messages.append({"role": "user", "content": line})
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        answer, _, _ = write(model, tokenizer, prompt, out, **options)
        out.write("\n")
        messages.append({"role": "assistant", "content": answer.strip()})


def _prompted(lines, out):
    """The lines that are not empty, each asked for with a sign if there is somebody to see it."""
    lines = iter(lines)
    while True:
        if out:
            out.write("> ")
            out.flush()
        line = next(lines, None)
        if line is None:
            return
        if line.strip():
            yield line.strip()


def merge(adapter, out, base=None, say=print):
    """Write the base with the adapter merged into it to the directory `out`: a model of its own, for any library."""
    out = Path(out)
    if (out / "config.json").exists() or (out / "model.safetensors").exists():
        raise ValueError(f"{out} holds a model already: choose another --out")
    model, tokenizer = load(base, adapter)
    if any(name.endswith("lm_head") for name, _ in model.base_model.layers()):
        model.untie_weights()
    merged = model.merge_and_unload(safe_merge=True)
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    say(f"The merged model ({merged.num_parameters():,} parameters) is in {out}")


def params(base, ranks, target_modules="all-linear", batch=1, length=None, say=print):
    """Count what adapters of these ranks have and need, from the base's configuration alone: no weights are read."""
    fields = config_fields(base)
    d = sizes.dimensions(fields)
    length = length or min(1024, fields.get("n_positions") or fields.get("max_position_embeddings") or 1024)
    adapters = sizes.adapter_sizes(fields, ranks[0], target_modules)
    say(f"{base}: {sizes.model_size(fields):,} parameters, {d['blocks']} blocks, {d['C']} wide\n")
    layers = sizes.linear_layers(fields)
    for part, names in _by_part(adapters).items():
        shape = layers.get(names[0]) or (d["C"], d["C"])
        say(f"{part:<42} {len(names):>4} layers of {shape[0]} -> {shape[1]}")
    say(f"\n{'rank':>6} {'trainable':>14} {'of all':>9} {'adapter file':>13}")
    for r in ranks:
        trained, total = sizes.count(fields, r, target_modules)
        say(f"{r:>6} {trained:>14,} {100 * trained / total:>8.4f}% {4 * trained / 1e6:>10.2f} MB")
    say(f"\nA training step of {batch} x {length} tokens at rank {ranks[0]}, in MB. Weights in bfloat16, an estimate:")
    say(f"{'':>6} {'weights':>10} {'gradients':>10} {'optimizer':>10} {'activations':>12} {'all':>10}")
    for method in METHODS:
        parts = memory(fields, ranks[0], target_modules, batch=batch, length=length, method=method)
        _say_row(method, parts, say)
    with contextlib.suppress(ValueError):  # a model, or a target, that is not followed
        parts = memory_here(fields, ranks[0], target_modules, batch=batch, length=length)
        say("What lora-np finetune takes, everything in float32:")
        _say_row("lora", parts, say)


def _say_row(name, parts, say):
    """One line of the memory table, in MB."""
    weights = parts["weights"] + parts["adapters"]
    columns = (weights, *(parts[part] for part in ("gradients", "optimizer", "activations", "total")))
    numbers = [f"{value / 1e6:,.1f}" for value in columns]
    say("{:>6} {:>10} {:>10} {:>10} {:>12} {:>10}".format(name, *numbers))


def _by_part(adapters):
    """{name with * for the block: [names]} of the adapted layers."""
    parts = {}
    for name in adapters:
        part = ".".join("*" if piece.isdigit() else piece for piece in name.split("."))
        parts.setdefault(part, []).append(name)
    return parts
