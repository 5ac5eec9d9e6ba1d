"""`lora-np params`: count parameters and memory."""

import argparse
from collections.abc import Callable, Sequence

from ..costs import adapter_sizes, count, model_size
from ..costs.parameters import dimensions, layer_shape
from ..expect import expect_whole
from ..models.loading.auto import config_fields
from .arguments import BASE, HelpFormatter
from .arguments import target_modules as targets
from .memory import say_memory_table

NAME = "params"
HELP = "count parameters and memory"
DESCRIPTION = """\
Count the parameters that adapters have and the memory that training takes, from a model's configuration alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The base, the adapters, and the batch."""
    parser.formatter_class = HelpFormatter
    add = parser.add_argument
    add("--base", metavar="NAME", default="tiny-python", help=f"{BASE}, or a config.json")
    add("--rank", type=int, nargs="+", metavar="R", default=[8], dest="ranks", help="one rank, or several to compare")
    add("--target-modules", nargs="+", metavar="NAME", default="all-linear", help="as for finetune")
    add("--batch-size", type=int, metavar="N", default=1, dest="batch", help="sequences per training step")
    add("--max-length", type=int, metavar="N", dest="length", help="tokens in a sequence (at most 1024 if not given)")


def run(options: argparse.Namespace) -> int:
    """Count, and print the tables."""
    params(options.base, options.ranks, targets(options.target_modules), options.batch, options.length)
    return 0


def params(
    base: str,
    ranks: Sequence[int],
    target_modules: str | tuple[str, ...] = "all-linear",
    batch: int = 1,
    length: int | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Count what adapters of these ranks have and need, from the base's configuration alone: no weights are read."""
    expect_whole(batch, "batch_size")
    expect_whole(1 if length is None else length, "max_length")
    fields = config_fields(base)
    try:
        d = dimensions(fields)
    except ValueError as error:
        raise ValueError(f"{base}: {error}") from None
    length = length or min(1024, fields.get("n_positions") or fields.get("max_position_embeddings") or 1024)
    adapters = adapter_sizes(fields, ranks[0], target_modules)
    say(f"{base}: {model_size(fields):,} parameters, {d['blocks']} blocks, {d['C']} wide\n")
    for part, names in _by_part(adapters).items():
        shape = layer_shape(fields, names[0])
        say(f"{part:<42} {len(names):>4} layers of {shape[0]} -> {shape[1]}")
    say(f"\n{'rank':>6} {'trainable':>14} {'of all':>9} {'adapter file':>13}")
    for r in ranks:
        trained, total = count(fields, r, target_modules)
        say(f"{r:>6} {trained:>14,} {100 * trained / total:>8.4f}% {4 * trained / 1e6:>10.2f} MB")
    say_memory_table(fields, ranks[0], target_modules, batch, length, say)


def _by_part(adapters: dict[str, int]) -> dict[str, list[str]]:
    """{name with * for the block: [names]} of the adapted layers."""
    parts: dict[str, list[str]] = {}
    for name in adapters:
        part = ".".join("*" if piece.isdigit() else piece for piece in name.split("."))
        parts.setdefault(part, []).append(name)
    return parts
