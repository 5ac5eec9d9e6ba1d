"""`lora-np merge`: merge an adapter into its base."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .arguments import BASE
from .model import load_adapted

NAME = "merge"
HELP = "merge an adapter into its base"
DESCRIPTION = (
    "Add an adapter to the weights of its base and write the result, a model that needs no adapter and no LoRA."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The adapter, its base, and where the model goes."""
    parser.add_argument("--adapter", metavar="DIR", required=True, help="the adapter, in PEFT's format")
    parser.add_argument("--base", metavar="NAME", help=f"its base, if not the one it names: {BASE}")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the merged model goes")


def run(options: argparse.Namespace) -> int:
    """Merge, and say where the model is."""
    merge(options.adapter, options.out, options.base)
    return 0


def merge(adapter: str, out: str | Path, base: str | None = None, say: Callable[[str], object] = print) -> None:
    """Write the base with the adapter merged into it to the directory `out`: a model of its own, for any library.

    ValueError if `out` holds a model already.
    """
    out = Path(out)
    if (out / "config.json").exists() or (out / "model.safetensors").exists():
        raise ValueError(f"{out} holds a model already: choose another --out")
    model, tokenizer = load_adapted(adapter, base)
    if any(name.endswith("lm_head") for name, _ in model.base_model.layers()):
        model.untie_weights()
    merged = model.merge_and_unload(safe_merge=True)
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    say(f"The merged model ({merged.num_parameters():,} parameters) is in {out}")
