"""All commands, and `main`, which runs one of them."""

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from ..extras import MissingPackageError
from . import chat, fetch, finetune, generate, merge, params, pretrain

DESCRIPTION = """\
LoRA fine-tuning in plain NumPy. Without a command, the main job runs: it takes a small language model that was
pretrained on Python source, trains a LoRA adapter on English prose, and shows what changed. Nothing is downloaded."""


class Command(Protocol):
    """What a command's module has."""

    NAME: str
    HELP: str  # one line, for the list of commands
    DESCRIPTION: str  # the start of the command's own help

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say which arguments the command takes."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


COMMANDS: tuple[Command, ...] = (finetune, generate, chat, merge, params, fetch, pretrain)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. What it parses has the chosen command's `run`."""
    parser = argparse.ArgumentParser(prog="lora-np", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="command")
    for command in COMMANDS:
        of_command = commands.add_parser(command.NAME, help=command.HELP, description=command.DESCRIPTION)
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Mistakes in the input are one line on standard error, status 2."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.command is None:
        options = parser.parse_args([finetune.NAME])
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError, FloatingPointError, MissingPackageError) as error:
        print(f"lora-np: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlora-np: stopped", file=sys.stderr)
        return 130
