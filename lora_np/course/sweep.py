"""The rank sweep: `python -m lora_np.course.sweep --out FILE`, about three hours on two cores, minutes on a GPU.

Every combination of rank, target set, scaling rule, learning rate and seed adapts the small base model to English
prose, on one budget; full training and training of the head alone stand beside them. The learning rate is chosen on
validation text, the results are of test text. Notebook 06 shows the file that is shipped here, rank_sweep.json, and
runs a slice of the sweep again.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
from importlib.resources import files
from pathlib import Path

from ..autograd.backend import device_name
from ..lora import LoraConfig
from ..storage import replacing
from ..training import evaluate
from .adaptation import PROSE, SOURCE, Adaptation, spread_of

RANKS = (1, 2, 4, 8, 16, 64)
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
        return {**point, "validation": None, "prose": None, "source": None}
    losses = {name: round(evaluate(outcome.model, windows), 5) for name, windows in test.items()}
    return {
        **point,
        "validation": round(outcome.prose, 5),
        "prose": losses[PROSE],
        "source": losses[SOURCE],
        "trainable": outcome.trainable,
        "seconds": round(outcome.seconds, 2),
    }


def shipped():
    """The sweep that comes with the package: {"about": {...}, "base": {...}, "runs": [...]}."""
    return json.loads(files("lora_np.course").joinpath("rank_sweep.json").read_text(encoding="utf-8"))


def tuned(runs):
    """The best learning rate of each combination, by mean validation loss over the seeds.

    Returns [{method, targets, rank, rule, learning_rate, trainable, "prose": (mean, deviation), "source": (...),
    "seconds": (...)}], in the order of the runs. A rate at which any seed diverged is out.
    """
    groups = {}
    for run in runs:
        key = (run["method"], run["targets"], run["rank"], run["rule"])
        groups.setdefault(key, {}).setdefault(run["learning_rate"], []).append(run)
    return [_best(key, by_rate) for key, by_rate in groups.items()]


def _best(key, by_rate):
    finished = {rate: runs for rate, runs in by_rate.items() if all(run["validation"] is not None for run in runs)}
    if not finished:
        raise ValueError(f"every learning rate diverged for {key}")
    rate = min(finished, key=lambda rate: spread_of([run["validation"] for run in finished[rate]])[0])
    runs = finished[rate]
    spreads = {name: spread_of([run[name] for run in runs]) for name in ("prose", "source", "seconds")}
    point = dict(zip(("method", "targets", "rank", "rule"), key, strict=True))
    return {**point, "learning_rate": rate, "trainable": runs[0]["trainable"], **spreads}


_worker = {}  # in each process of a pool, the data: loaded once


def _start_worker(steps, device, threads):
    if threads:
        os.environ["LORA_NP_NUM_THREADS"] = str(threads)
    task = Adaptation(steps=steps, held_out="validation", device=device)
    _worker.update(task=task, test=Adaptation(steps=steps, device=device).evaluation)


def _work(point):
    return run_point(_worker["task"], _worker["test"], point)


@contextlib.contextmanager
def _mapper(jobs, steps, device):
    """A `map` over points: in this process, or in `jobs` of them with one thread each."""
    if jobs == 1:
        _start_worker(steps, device, None)
        yield lambda points: map(_work, points)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _start_worker, (steps, device, 1)) as pool:
        yield lambda points: pool.imap(_work, points)


def sweep(points, steps=160, device="cpu", jobs=1):
    """Run the points; {"about", "base", "runs"} as in the shipped file. "base" are the test losses before training."""
    from tqdm.auto import tqdm

    with _mapper(jobs, steps, device) as mapped:
        runs = list(tqdm(mapped(points), total=len(points), unit="run"))
    task = Adaptation(steps=steps, device=device)
    base = {name: round(evaluate(task.base(), task.evaluation[name]), 5) for name in (PROSE, SOURCE)}
    about = {
        "steps": steps,
        "batch_size": 16,
        "window": 256,
        "python": platform.python_version(),
        "device": device_name(device),
    }
    return {"about": about, "base": {"prose": base[PROSE], "source": base[SOURCE]}, "runs": runs}


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
    result = sweep(grid()[: options.first], options.steps, options.device, options.jobs)
    write(result, options.out)
    print(f"{len(result['runs'])} runs: {options.out}")


if __name__ == "__main__":
    main()
