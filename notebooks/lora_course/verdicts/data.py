"""The files of the data sets: one run a line, written as they come: a stopped command leaves what it made.

A run is its point (method, rate, seed, ...) and what came of it: lists with a value for each marked "step"
("validation", "prose", "source", for some "size" and "intruders"), "trainable", "seconds", "diverged". Losses are in
nats per byte, in `second` per token. Those of `capacity`, `larger`, `reward` and `second` have lists of their own:
see capacity.py, reward.py and second.py.
"""

import json
from importlib.resources import files
from pathlib import Path

from lora_np.storage import replacing

RESULTS = {
    "step",
    "validation",
    "prose",
    "source",
    "own",
    "size",
    "intruders",
    "reduced",
    "trainable",
    "seconds",
    "diverged",
    "milliseconds",
    "merged",
    "base_bytes",
    "success",
    "bits",
    "heard",
    "entropy",
    "remembered",
    "energy",
    "cut",
}


def shipped(name):
    """A data set that comes with the package: {"about": {...}, "base": {...}, "runs": [...]}."""
    return json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def key_of(point):
    """What tells a point, or a run's, from the others of its data set.

    A relative's "size" is part of its point; that of an update, a list, is a result.
    """
    return json.dumps({name: value for name, value in point.items() if not _is_result(name, value)}, sort_keys=True)


def _is_result(name, value):
    return name in RESULTS and (name != "size" or isinstance(value, list))


def append(run, path):
    """Add a run to the file of those that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")


def made(path):
    """The runs in such a file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def write(about, base, runs, path):
    """The data set as it is shipped."""
    lines = ",\n".join(json.dumps(run) for run in sorted(runs, key=key_of))
    head = json.dumps({"about": about, "base": base})[:-1]
    with replacing(Path(path)) as temporary:
        temporary.write_text(f'{head}, "runs": [\n{lines}\n]}}\n', encoding="utf-8")
