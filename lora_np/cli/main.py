"""All commands, and `main`, which runs one of them."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from .. import __version__
from ..extras import MissingPackageError
from . import chat, fetch, finetune, generate, merge, params, pretrain
from .parser import Parser, check_paths

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
    parser = Parser(prog="lora-np", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"lora-np {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for command in COMMANDS:
        of_command = commands.add_parser(command.NAME, help=command.HELP, description=command.DESCRIPTION)
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run, parser=of_command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Mistakes in the input are one line on standard error, status 2."""
    parser = build_parser()
    options, others = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if options.command is None:
        options, others = parser.parse_known_args([finetune.NAME, *others])
    if others:
        options.parser.error(f"unrecognized arguments: {' '.join(others)}")

    def run() -> int:
        check_paths(options)
        return options.run(options)

    return outcome(run)


def outcome(run: Callable[[], int]) -> int:
    """The exit status that `run` returns, or 2 after an error, which is said in one line, and 130 after Ctrl-C.

    141 where nobody reads standard output any more (`lora-np ... | head`). What it cannot show is "?" there.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    try:
        return run()
    except MemoryError as error:
        print(f"lora-np: there is not enough memory{f': {error}' if str(error) else ''}", file=sys.stderr)
        return 2
    except BrokenPipeError as error:
        if _is_read():
            print(f"lora-np: {error}", file=sys.stderr)
            return 2
        return 141
    except (ValueError, OSError, RuntimeError, FloatingPointError, MissingPackageError) as error:
        print(f"lora-np: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlora-np: stopped", file=sys.stderr)
        return 130


def _is_read() -> bool:
    """Does somebody read standard output? If not, what is left of it goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # it has no number: then it is no pipe either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
