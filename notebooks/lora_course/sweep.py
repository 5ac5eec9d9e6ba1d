"""The rank sweep, hours on two cores and minutes on a GPU: `python -m lora_course.sweep --out FILE`.

Every combination of rank, target set, scaling rule, learning rate and seed adapts the small base model to English
prose, on one budget; full training and training of the head alone stand beside them. The learning rate is chosen on
validation text, the results are of test text. Notebook 06 shows the file that is shipped here, rank_sweep.json, and
runs a slice of the sweep again.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import platform
from importlib.resources import files
from pathlib import Path

import numpy as np

from lora_np.lora import LoraConfig
from lora_np.storage import replacing
from lora_np.training import evaluate

from .adaptation import PROSE, SOURCE, Adaptation, spread_of
from .device import device_name

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
SEEDS = (0, 1, 2)
TARGETS = {  # what is adapted in each block
    "q and v": ["c_attn.q", "c_attn.v"],
    "attention": ["c_attn", "attn.c_proj"],
    "MLP": ["c_fc", "mlp.c_proj"],
    "all linear": "all-linear",
}
RULES = {  # scaling rule: (alpha, use_rslora) for a rank
    "alpha = 2r": lambda r: (2 * r, False),  # s = 2 at every rank
    "alpha = 16": lambda r: (16, False),  # s = 16/r
    "alpha = 16, rsLoRA": lambda r: (16, True),  # s = 16/sqrt(r)
}
LOSSES = ("validation", "prose", "source")  # of each run: on validation prose, and on both kinds of test text
KINDS = {"prose": PROSE, "source": SOURCE}
RATES = {"LoRA": (1e-3, 3e-3, 1e-2, 3e-2), "full": (3e-4, 1e-3, 3e-3, 1e-2), "head": (1e-3, 3e-3, 1e-2, 3e-2)}


def lora_config(targets, rank, rule="alpha = 2r"):
    """The LoraConfig of one point of the sweep; `targets` is a key of TARGETS, `rule` one of RULES."""
    alpha, use_rslora = RULES[rule](rank)
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=use_rslora,
        target_modules=TARGETS[targets],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )


def grid():
    """All runs: dicts of method, targets, rank, rule, learning_rate and seed.

    The first rule is tried on every target set, the others on all linear layers only.
    """
    combinations = [("LoRA", targets, rank, "alpha = 2r") for targets in TARGETS for rank in RANKS]
    combinations += [("LoRA", "all linear", rank, rule) for rule in list(RULES)[1:] for rank in RANKS]
    combinations += [("full", None, None, None), ("head", None, None, None)]
    names = ("method", "targets", "rank", "rule")
    return [
        {**dict(zip(names, values, strict=True)), "learning_rate": rate, "seed": seed}
        for values in combinations
        for rate in RATES[values[0]]
        for seed in SEEDS
    ]


def run_point(task, test, point):
    """One run: the point with its losses on validation and test text, its size and its time.

    Losses in nats per byte, None where training diverged. `test` is {name: windows}, as in `Adaptation.evaluation`.
    """
    method = (
        lora_config(point["targets"], point["rank"], point["rule"]) if point["method"] == "LoRA" else point["method"]
    )
    try:
        outcome = task.run(method, point["learning_rate"], point["seed"])
    except FloatingPointError:
        return {**point, **dict.fromkeys(LOSSES)}
    losses = (outcome.prose, *(evaluate(outcome.model, test[name]) for name in (PROSE, SOURCE)))
    if not all(map(math.isfinite, losses)):  # the last step broke it
        return {**point, **dict.fromkeys(LOSSES)}
    rounded = {name: round(loss, 5) for name, loss in zip(LOSSES, losses, strict=True)}
    return {**point, **rounded, "trainable": outcome.trainable, "seconds": round(outcome.seconds, 2)}


def shipped():
    """The sweep that comes with the package: {"about": {...}, "base": {...}, "runs": [...]}."""
    return json.loads(files("lora_course").joinpath("rank_sweep.json").read_text(encoding="utf-8"))


def tuned(runs):
    """The best learning rate of each combination, by mean validation loss over the seeds.

    Returns [{method, targets, rank, rule, learning_rate, trainable, "prose": (mean, deviation), "source": (...),
    "seconds": (...), "runs", "at_edge"}], in the order of the runs. A rate at which any seed diverged is out. "runs"
    are those of the best rate; "at_edge" says that it is the lowest or highest that was tried, so that a better one may
    lie beyond. ValueError where every rate diverged.
    """
    return [_best(key, by_rate) for key, by_rate in _by_rate(runs).items()]


def _by_rate(runs):
    """{(method, targets, rank, rule): {learning rate: [run of each seed]}}."""
    groups = {}
    for run in runs:
        key = (run["method"], run["targets"], run["rank"], run["rule"])
        groups.setdefault(key, {}).setdefault(run["learning_rate"], []).append(run)
    return groups


def _best(key, by_rate):
    finished = {rate: runs for rate, runs in by_rate.items() if all(run["validation"] is not None for run in runs)}
    if not finished:
        raise ValueError(f"every learning rate diverged for {key}")
    rate = min(finished, key=lambda rate: spread_of([run["validation"] for run in finished[rate]])[0])
    runs = finished[rate]
    return {
        **dict(zip(("method", "targets", "rank", "rule"), key, strict=True)),
        "learning_rate": rate,
        "trainable": runs[0]["trainable"],
        **{name: spread_of([run[name] for run in runs]) for name in ("prose", "source", "seconds")},
        "runs": runs,
        "at_edge": rate in (min(by_rate), max(by_rate)),
    }


def select(rows, **fields):
    """Those of the runs or points that have these values: `select(points, targets="MLP", rank=8)`."""
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def by_targets(points, rule="alpha = 2r"):
    """{target set, "full training" or "head only": its points}, of one scaling rule: what the pictures take."""
    groups = {targets: select(points, targets=targets, rule=rule) for targets in TARGETS}
    groups |= {"full training": select(points, method="full"), "head only": select(points, method="head")}
    return {label: found for label, found in groups.items() if found}


def rate_grid(runs, rule, targets="all linear", loss="prose"):
    """(ranks, rates, losses): the mean loss over the seeds by rank and learning rate, an array (ranks, rates).

    nan where a seed diverged.
    """
    groups = {key[2]: by_rate for key, by_rate in _by_rate(select(runs, rule=rule, targets=targets)).items()}
    ranks, rates = sorted(groups), sorted({rate for by_rate in groups.values() for rate in by_rate})
    losses = [[_mean([run[loss] for run in groups[rank][rate]]) for rate in rates] for rank in ranks]
    return ranks, rates, np.array(losses)


def _mean(losses):
    return math.nan if None in losses else spread_of(losses)[0]


def gain_ratio(part, whole, base):
    """(mean, deviation) over seeds of how much of one point's gain on prose another one has.

    part, whole: points of `tuned`; base: the prose loss before training. Runs of one seed saw the same batches, so the
    ratio is taken seed by seed.
    """
    gains = [{run["seed"]: base - run["prose"] for run in point["runs"]} for point in (part, whole)]
    return spread_of([gains[0][seed] / gains[1][seed] for seed in gains[1]])


def format_points(points, base, parameters):
    """The points as a table to print. base: {"prose", "source"} losses before training; parameters: of the base model.

    Losses are in nats per byte. A * marks a best learning rate that lies at the edge of what was tried.
    """
    lines = [
        f"{'trained':<12}{'r':>4}{'best lr':>9}  {'loss on prose':<16}{'gain':>6}{'forgotten':>11}"
        f"{'parameters':>12}{'of base':>9}{'file':>10}"
    ]
    for p in points:
        rate, (prose, deviation) = f"{p['learning_rate']:g}{'*' if p['at_edge'] else ' '}", p["prose"]
        lines.append(
            f"{p['targets'] or p['method']:<12}{p['rank'] or '-':>4}{rate:>10} {prose:.4f} ± {deviation:.4f}"
            f"{base['prose'] - prose:>7.3f}{p['source'][0] - base['source']:>11.3f}"
            f"{p['trainable']:>12,}{p['trainable'] / parameters:>9.2%}{4 * p['trainable'] / 1000:>7,.0f} kB"
        )
    return "\n".join(lines)


_worker = {}  # in each process of a pool, the data: loaded once


def _start_worker(arguments, threads):
    if threads:
        os.environ["LORA_NP_NUM_THREADS"] = str(threads)
    task = Adaptation(**arguments, held_out="validation")
    _worker.update(task=task, test=Adaptation(**arguments).evaluation)


def _work(point):
    return run_point(_worker["task"], _worker["test"], point)


@contextlib.contextmanager
def _mapper(jobs, arguments):
    """A `map` over points: in this process, or in `jobs` of them with one thread each."""
    if jobs == 1:
        _start_worker(arguments, None)
        yield lambda points: map(_work, points)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _start_worker, (arguments, 1)) as pool:
        yield lambda points: pool.imap(_work, points)


def sweep(points, jobs=1, **arguments):
    """Run the points; {"about", "base", "runs"} as in the shipped file. "base" are the test losses before training.

    arguments: of `Adaptation`, but for held_out. With several jobs the seconds of a run say little.
    """
    from tqdm.auto import tqdm

    with _mapper(jobs, arguments) as mapped:
        runs = list(tqdm(mapped(points), total=len(points), unit="run"))
    task = Adaptation(**arguments)
    base = {kind: round(evaluate(task.base(), task.evaluation[name]), 5) for kind, name in KINDS.items()}
    about = {
        "steps": task.steps,
        "batch_size": task.train.batch_size,
        "window": task.train.length,
        "python": platform.python_version(),
        "device": device_name(task.device),
    }
    return {"about": about, "base": base, "runs": runs}


def write(result, path):
    """One run a line, so that a change can be read."""
    runs = ",\n".join(json.dumps(run) for run in result["runs"])
    head = json.dumps({"about": result["about"], "base": result["base"]})[:-1]
    with replacing(Path(path)) as temporary:
        temporary.write_text(f'{head}, "runs": [\n{runs}\n]}}\n', encoding="utf-8")


def main():
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/rank_sweep.json", help="where the results go (default %(default)s)")
    parser.add_argument("--steps", type=int, default=160, help="training steps of each run (default %(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each")
    parser.add_argument("--first", type=int, help="only the first so many points, to try it out")
    options = parser.parse_args()
    result = sweep(grid()[: options.first], options.jobs, steps=options.steps, device=options.device)
    write(result, options.out)
    print(f"{len(result['runs'])} runs: {options.out}")


if __name__ == "__main__":
    main()
