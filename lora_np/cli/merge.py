"""`lora-np merge`: merge an adapter into its base."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..storage import claimed, is_there, together
from .arguments import BASE
from .model import load_adapted
from .output import ADAPTER
from .waiting import waiting

MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json")
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
    parser.add_argument("--overwrite", action="store_true", help="replace the model that --out holds")


def run(options: argparse.Namespace) -> int:
    """Merge, and say where the model is."""
    merge(options.adapter, options.out, options.base, overwrite=options.overwrite)
    return 0


def merge(
    adapter: str,
    out: str | Path,
    base: str | None = None,
    say: Callable[[str], object] = print,
    overwrite: bool = False,
) -> None:
    """Write the base with the adapter merged into it to the directory `out`: a model of its own, for any library.

    overwrite: replace the model that `out` holds already; without it, ValueError. Model and tokenizer are replaced as
    one. OSError, in a sentence, if `out` cannot be written, or another process is writing there.
    """
    out = Path(out)
    with claimed(out):
        if is_there(out / ADAPTER):
            raise ValueError(f"{out} holds an adapter, which would stay beside the model: choose another --out")
        if not overwrite and any(is_there(out / name) for name in MODEL_FILES):
            raise ValueError(f"{out} holds a model already: choose another --out, or --overwrite it")
        model, tokenizer = load_adapted(adapter, base)
        if any(name.endswith("lm_head") for name, _ in model.base_model.layers()):
            model.untie_weights()
        with waiting(f"Merging into {out}"):
            merged = model.merge_and_unload(safe_merge=True)
        with waiting(f"Writing {out}"), together(out):
            merged.save_pretrained(out)
            tokenizer.save_pretrained(out)
    say(f"The merged model ({merged.num_parameters():,} parameters) is in {out}")
