"""`lora-np chat`: talk to a model."""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from .model import add_model_arguments, load
from .writing import add_sampling_arguments, chat_prompt, sampling_options, write

NAME = "chat"
HELP = "talk to a model"
DESCRIPTION = "Talk to a model, one line at a time. /reset begins anew, /quit or the end of the input ends."

CHAT_MODEL = "smollm2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, what it is told beforehand, and how its tokens are chosen."""
    add_model_arguments(parser, CHAT_MODEL)
    parser.add_argument("--system", metavar="TEXT", help="instructions that stand before the conversation")
    add_sampling_arguments(parser, max_new_tokens=256)


def run(options: argparse.Namespace) -> int:
    """Talk, on standard input and output."""
    sampling = sampling_options(options)
    chat(options.base, options.adapter, options.system, options.device, dtype=options.dtype, **sampling)
    return 0


def chat(
    base: str | None,
    adapter: str | None,
    system: str | None = None,
    device: str = "cpu",
    lines: Iterable[str] | None = None,
    out: TextIO | None = None,
    dtype: str = "fp32",
    **options: Any,
) -> None:
    """Talk: each line of `lines` (standard input) is a message, answered with the conversation so far in view.

    A line /reset begins anew, /quit ends, as does the end of the input. ValueError if the model has no chat template.
    """
    out = out or sys.stdout
    model, tokenizer = load(base or (None if adapter else CHAT_MODEL), adapter, device, dtype)
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template, it was not trained to chat: use  lora-np generate")
    before = [{"role": "system", "content": system}] if system else []
    messages = list(before)
    for line in _said(lines, out):
        if line == "/reset":
            messages = list(before)
            continue
        messages.append({"role": "user", "content": line})
        answer, _, _ = write(model, tokenizer, chat_prompt(tokenizer, messages), out, templated=True, **options)
        out.write("\n")
        messages.append({"role": "assistant", "content": answer.strip()})


def _said(lines: Iterable[str] | None, out: TextIO) -> Iterator[str]:
    """The messages, and /reset, up to /quit; what else begins with / is answered here."""
    interactive = lines is None and sys.stdin.isatty()
    if lines is None and isinstance(sys.stdin, io.TextIOWrapper):  # half a character, left by backspace, ends no talk
        sys.stdin.reconfigure(errors="replace")
    if interactive:
        out.write("/reset begins anew, /quit ends.\n")
    for line in _prompted(lines or sys.stdin, out if interactive else None):
        if line == "/quit":
            return
        if line.startswith("/") and line != "/reset":
            out.write(f"There is no {line}; there are /reset and /quit.\n")
        else:
            yield line


def _prompted(lines: Iterable[str], out: TextIO | None) -> Iterator[str]:
    """The lines that are not empty, each asked for with a sign if there is somebody to see it."""
    left = iter(lines)
    while True:
        if out:
            out.write("> ")
            out.flush()
        line = next(left, None)
        if line is None:
            return
        if line.strip():
            yield line.strip()
