"""`lora-np pretrain`: rebuild the base model."""

import argparse
import sys
from pathlib import Path

from ..storage import claimed
from ..training import CheckpointError
from ..training.pretrain import pretrain
from .arguments import HelpFormatter
from .output import Output
from .parser import seed

NAME = "pretrain"
HELP = "rebuild the base model"
DESCRIPTION = """\
Rebuild the base model 'tiny-python': a GPT with 0.86M parameters that reads bytes, trained from nothing on the source
of the standard library. 6,000 steps take about 40 minutes on two processor cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the model goes, and how it is trained."""
    parser.formatter_class = HelpFormatter
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/tiny-python", help="where the model goes")
    add("--steps", type=int, metavar="N", default=6000, help="optimizer steps")
    add("--seed", type=seed, metavar="N", default=0, help="the same seed gives the same run")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (a GPU needs CuPy)")
    add("--source", metavar="DIR", help="Python files to learn from, instead of this Python's standard library")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")


def run(options: argparse.Namespace) -> int:
    """Train, and say where the model is and how good; status 130 if it was stopped."""
    how = {name: getattr(options, name) for name in ("steps", "seed", "device", "source", "resume")}
    with claimed(options.out):
        try:
            report = pretrain(options.out, **how)
        except CheckpointError as error:
            out = Output(Path(options.out), ask=input if sys.stdin is not None and sys.stdin.isatty() else None)
            out.write(error.run.save)
            print(f"The same command with --out {out.folder} --resume goes on from there.")
            return 2
    if report is None:
        print(f"Stopped; go on with --resume. Checkpoint: {options.out}")
        return 130
    print(f"Model: {options.out}\n{report}")
    return 0
