"""Where the main job's results go."""

from pathlib import Path

from ..storage import existing
from ..training.loop import CHECKPOINT
from .options import FinetuneOptions

ADAPTER = "adapter_config.json"


def output_directory(options: FinetuneOptions) -> Path:
    """The folder for the results: as asked, or runs/ and the name of the data, with a number if that is taken.

    Nothing is made yet, and no other adapter is written over. ValueError if `out` is a file or holds an adapter
    already, FileNotFoundError if there is nothing to resume.
    """
    if options.out is None:
        return _free_directory(Path("runs") / (Path(options.data).stem if options.data else "prose"), options.resume)
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; it must be a directory, or a new name")
    if options.resume:
        existing(out / CHECKPOINT)
    elif (out / ADAPTER).exists() and not options.overwrite:
        raise ValueError(f"{out} holds an adapter already: choose another --out, or go on from it with --resume")
    return out


def _free_directory(first: Path, resume: bool) -> Path:
    """`first`, or the name with the next number, -2, -3, ..., that holds no adapter; to resume, the last that does."""
    taken, out, number = first, first, 1
    while (out / ADAPTER).exists():
        taken, number = out, number + 1
        out = first.with_name(f"{first.name}-{number}")
    if resume:
        existing(taken / CHECKPOINT)
        return taken
    return out
