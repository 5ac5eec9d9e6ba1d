"""Intruder dimensions (Shuttleworth et al., 2024, arXiv 2410.21228): the rank, the rate, or the size of the update?

`python -m lora_course.verdicts curves` makes the runs.
"""

import numpy as np

from .statistics import by, interval, value_at, where
from .verdict import Verdict, decided

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


def without(curves, strength, least=5, learnt=0.1):
    """What becomes of trained adapters with their intruders at `strength`: of runs with at least so many of them at the
    end, which have learnt something.

    {"back": interval of the part of what was forgotten that comes back, "lost": of the part of what was learnt that
    goes, "runs"}. The parts are ratios of means over the runs of a seed; the intervals are over seeds.
    """
    base, parts = curves["base"], {"back": [], "lost": []}
    runs = [run for run in curves["runs"] if run.get("reduced") and run["intruders"][-1] >= least]
    runs = [run for run in runs if base["prose"] - run["prose"][-1] >= learnt]
    for own in by(runs, "seed").values():
        change = {
            c: np.mean([run["reduced"][str(strength)][c] - run[c][-1] for run in own]) for c in ("prose", "source")
        }
        parts["back"].append(-change["source"] / (np.mean([run["source"][-1] for run in own]) - base["source"]))
        parts["lost"].append(change["prose"] / (base["prose"] - np.mean([run["prose"][-1] for run in own])))
    return {name: interval(values) for name, values in parts.items()} | {"runs": len(runs)}


def at_loss(curves):
    """{rank or "full": what `matched` has of it at the matched loss, and the "rate"}: that which forgets least."""
    found = {}
    for (rank, rate), row in matched(curves, "prose", LOSS).items():
        if rank not in found or row["source"][0] < found[rank]["source"][0]:
            found[rank] = {**row, "rate": rate}
    return found


def verdicts(curves):
    """Four questions."""
    who = "[Shuttleworth et al., 2024](https://arxiv.org/abs/2410.21228)"
    same_loss = at_loss(curves)
    ranks = sorted(set(same_loss) - {"full"})
    same_size = matched(curves, "size", SIZE)
    by_rank = {rank: [row["intruders"] for (r, _), row in same_size.items() if r == rank] for rank in ranks}
    low, high = by_rank[min(by_rank)], by_rank[max(by_rank)]
    r2 = {name: explained(curves, [name]) for name in ("size", "rank", "rate")}
    r2["all three"] = explained(curves, ["size", "rank", "rate"])
    half = without(curves, 0.5)
    seeds = same_loss["full"]["seeds"]
    return [
        Verdict(
            "LoRA brings intruder dimensions, full training hardly any",
            who,
            {f"{_name(rank)}, of {ALL}": same_loss[rank]["intruders"] for rank in ("full", *ranks)},
            seeds,
            f"at a prose loss of {LOSS} each rank has more than full training, the intervals apart",
            decided(
                all(_apart(same_loss[rank]["intruders"], same_loss["full"]["intruders"]) for rank in ranks),
                all(not _apart(same_loss[rank]["intruders"], same_loss["full"]["intruders"]) for rank in ranks),
            ),
            "curves",
        ),
        Verdict(
            "a lower rank brings more of them, also at equal size of the update",
            who,
            {f"{_name(rank)}, over rates": _range(pairs) for rank, pairs in by_rank.items()},
            seeds,
            f"at ‖ΔW‖/‖W‖ = {SIZE} the lowest rank has more at each rate than the highest at any",
            decided(
                min(p[0] for p in low) > max(p[0] for p in high), max(p[0] for p in low) <= min(p[0] for p in high)
            ),
            "curves",
        ),
        Verdict(
            "it is the size of the update that counts, not the rank or the rate",
            "asked here",
            {f"R² of {name}": (value, None) for name, value in r2.items()},
            seeds,
            "the size alone explains most, and rank and rate add less than 0.1 to its R²",
            decided(
                r2["size"] > max(r2["rank"], r2["rate"]) and r2["all three"] - r2["size"] < 0.1,
                r2["size"] <= max(r2["rank"], r2["rate"]) or r2["all three"] - r2["size"] >= 0.1,
            ),
            "curves",
        ),
        Verdict(
            "making them smaller brings back what was forgotten, at little cost",
            who,
            {
                "at half strength, part of the forgotten that comes back": half["back"],
                "part of the learnt that goes": half["lost"],
            },
            seeds,
            "at half their strength a larger part of the forgotten comes back than of the learnt goes",
            decided(_apart(half["back"], half["lost"]), _apart(half["lost"], half["back"])),
            "curves",
        ),
    ]


def _name(rank):
    return "full" if rank == "full" else f"rank {rank}"


def _apart(pair, other):
    return pair[0] - pair[1] > other[0] + other[1]


def _range(pairs):
    """The middle and half the width of the range of several means."""
    means = [pair[0] for pair in pairs]
    return (max(means) + min(means)) / 2, (max(means) - min(means)) / 2
