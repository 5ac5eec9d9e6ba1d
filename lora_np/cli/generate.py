"""`lora-np generate`: let a model write."""

import argparse
import sys
from typing import Any, TextIO

from .model import add_model_arguments, load
from .writing import add_sampling_arguments, chat_prompt, sampling_options, write

NAME = "generate"
HELP = "let a model write"
DESCRIPTION = "Let a model write."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, the model, and how its tokens are chosen."""
    prompt = "the text to go on from; for a chat model, what the user says; - reads it from stdin"
    parser.add_argument("prompt", help=prompt)
    add_model_arguments(parser, "tiny-python")
    parser.add_argument("--raw", action="store_true", help="go on from the prompt as it is, without the chat template")
    add_sampling_arguments(parser, max_new_tokens=128)


def run(options: argparse.Namespace) -> int:
    """Write, to standard output."""
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    sampling = sampling_options(options)
    generate(options.base, options.adapter, prompt, options.raw, options.device, dtype=options.dtype, **sampling)
    return 0


def generate(
    base: str | None,
    adapter: str | None,
    prompt: str,
    raw: bool = False,
    device: str = "cpu",
    out: TextIO | None = None,
    dtype: str = "fp32",
    **options: Any,
) -> None:
    """Print what the model writes. With a chat template, the prompt is a user's message, unless `raw`."""
    out = out or sys.stdout
    model, tokenizer = load(base, adapter, device, dtype)
    templated = bool(tokenizer.chat_template) and not raw
    if templated:
        prompt = chat_prompt(tokenizer, [{"role": "user", "content": prompt}])
    else:
        out.write(prompt)
    _, tokens, seconds = write(model, tokenizer, prompt, out, templated=templated, **options)
    out.write("\n")
    print(f"[{tokens} tokens, {tokens / seconds:.1f} a second]", file=sys.stderr)
