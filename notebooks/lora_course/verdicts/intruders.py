"""Intruder dimensions (Shuttleworth et al., 2024, arXiv 2410.21228): the rank, the rate, or the size of the update?

`python -m lora_course.verdicts curves` makes the runs.
"""

import numpy as np

from .statistics import by, interval, value_at, where

ALL = 160  # the 10 strongest directions of 16 layers
LOSS, SIZE = 1.12, 0.2  # at which runs are compared: nats per byte of prose, and ‖ΔW‖ / ‖W‖


def matched(curves, name, level):
    """{(rank or "full", rate): {"intruders", "source", "prose", "size", "step": interval, "seeds"}} where `name` gets
    to `level`, between the marks. `name`: "prose" or "size". Only rates at which all seeds get there."""
    base = {**curves["base"], "size": 0.0, "intruders": 0, "step": 0}
    found = {}
    for (rank, rate), runs in sorted(by(curves["runs"], "rank", "rate").items(), key=str):
        places = [where(run, name, level, base[name]) for run in runs]
        if all(place is not None for place in places):
            columns = ("intruders", "source", "prose", "size", "step")
            values = {c: [value_at(r, p, c, base[c]) for r, p in zip(runs, places, strict=True)] for c in columns}
            found[rank or "full", rate] = {c: interval(v) for c, v in values.items()} | {"seeds": len(runs)}
    return found


def explained(curves, names):
    """R² of a linear fit of the count of intruders to logarithms of these columns, over LoRA's looks from step 40 on.

    names: of "rank", "rate", "size", "step".
    """
    rows, counts = [], []
    for run in curves["runs"]:
        if run["method"] == "LoRA":
            for i, step in enumerate(run["step"]):
                if step >= 40:
                    values = {"rank": run["rank"], "rate": run["rate"], "size": run["size"][i], "step": step}
                    rows.append([1.0, *(np.log(values[name]) for name in names)])
                    counts.append(run["intruders"][i])
    X, y = np.array(rows), np.array(counts, dtype=float)
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return float(1 - residual @ residual / np.square(y - y.mean()).sum())


def without(curves, strength, least=5):
    """What becomes of trained adapters with their intruders at `strength`: of runs with at least so many of them.

    {"prose", "source": interval of the change, "runs", "back": which part of what was forgotten comes back, "lost":
    which part of what was learnt goes}. The parts are ratios of means.
    """
    base = curves["base"]
    runs = [run for run in curves["runs"] if "reduced" in run and run["intruders"][-1] >= least]
    change = {c: [run["reduced"][str(strength)][c] - run[c][-1] for run in runs] for c in ("prose", "source")}
    means = {c: float(np.mean(v)) for c, v in change.items()}
    forgotten = np.mean([run["source"][-1] for run in runs]) - base["source"]
    learnt = base["prose"] - np.mean([run["prose"][-1] for run in runs])
    parts = {"back": -means["source"] / forgotten, "lost": means["prose"] / learnt}
    return {**means, **{k: float(v) for k, v in parts.items()}, "runs": len(runs)}
