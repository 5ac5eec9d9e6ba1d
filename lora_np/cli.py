"""The command line: `python -m lora_np`, or `lora-np`."""

import argparse
import re
import sys

from .finetune import FinetuneOptions, finetune, option_defaults

DESCRIPTION = """\
LoRA fine-tuning in plain NumPy. Without a command, the main job runs: it takes a small language model that was
pretrained on Python source, trains a LoRA adapter on English prose, and shows what changed. Nothing is downloaded."""

FINETUNE = """\
Train a LoRA adapter on a text file. The base model stays as it is; the adapter, a small file in PEFT's format,
holds everything learned. The last tenth of the text is held out to measure what was learned, so the text needs
about 3,000 characters at least."""

PRETRAIN = """\
Rebuild the base model 'tiny-python': a GPT with 0.86M parameters that reads bytes, trained from nothing on the source
of the standard library. 6,000 steps take about an hour on two processor cores."""


def build_parser():
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="lora-np", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_finetune(commands.add_parser("finetune", help="train an adapter on your own text", description=FINETUNE))
    _add_pretrain(commands.add_parser("pretrain", help="rebuild the base model", description=PRETRAIN))
    return parser


def _add_finetune(parser):
    defaults = option_defaults()

    def add(flag, text, **settings):
        default = defaults[flag.removeprefix("--").replace("-", "_")]
        shown = "" if default is None else " (default: %(default)s)"
        parser.add_argument(flag, default=default, help=text + shown, **settings)

    add("--data", "UTF-8 text to learn from; without it, the prose of Python's help() pages", metavar="FILE")
    add("--base", "the base model: a shipped model's name, or a directory", metavar="NAME")
    add("--out", "where adapter, checkpoint and picture go; without it, runs/ and the text's name", metavar="DIR")
    add("--rank", "rank of the update: A is rank x inputs, B is outputs x rank", type=int, metavar="R")
    add("--alpha", "the update is scaled by alpha / rank", type=float, metavar="X")
    targets = "layers that get an adapter: ends of their names (c_attn c_fc), a regular expression, or all-linear"
    add("--target-modules", targets, nargs="+", metavar="NAME")
    add("--dropout", "dropout in front of A, while training", type=float, metavar="P")
    add("--steps", "optimizer steps", type=int, metavar="N")
    add("--batch-size", "windows of text per step", type=int, metavar="N")
    add("--learning-rate", "the highest learning rate", type=float, metavar="X")
    add("--seed", "the same seed gives the same run", type=int, metavar="N")
    add("--device", "cpu, cuda or cuda:N; a GPU needs CuPy")
    resume = "go on from the checkpoint in --out, all other options being the same"
    parser.add_argument("--resume", action="store_true", help=resume)


def _add_pretrain(parser):
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
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
    if command == "pretrain":
        from .training.pretrain import pretrain

        out = options.pop("out")
        report = pretrain(out, **options)
        print(f"Stopped; go on with --resume. Checkpoint: {out}" if report is None else f"Model: {out}\n{report}")
        return 130 if report is None else 0
    if isinstance(options.get("target_modules"), list):
        options["target_modules"] = _targets(options["target_modules"])
    result = finetune(FinetuneOptions(**options))
    return 130 if result["history"]["interrupted"] else 0


def _targets(names):
    """One value that is no plain name ("all-linear", a regular expression) stays a string; names become a tuple."""
    return names[0] if len(names) == 1 and not re.fullmatch(r"[\w.]+", names[0]) else tuple(names)
