"""Intruder dimensions (Shuttleworth et al., 2024, arXiv 2410.21228): the rank, the rate, or the size of the update?

`python -m lora_course.verdicts curves` makes the runs.
"""

import numpy as np

from .points import RANKS
from .statistics import by, interval, value_at, where
from .verdict import Verdict, decided, higher

WHO = "[Shuttleworth et al., 2024](https://arxiv.org/abs/2410.21228)"
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
    seeds = len({run["seed"] for run in curves["runs"]})
    return [_of_presence(curves, seeds), _of_rank(curves, seeds), _of_size(curves, seeds), _of_reduction(curves, seeds)]


def _of_presence(curves, seeds):
    found = {rank: row["intruders"] for rank, row in at_loss(curves).items()}
    full = found.pop("full")
    apart = [higher(pair, full) for pair in found.values()]
    return Verdict(
        "LoRA brings intruder dimensions, full training hardly any",
        WHO,
        {"full, of 160": full} | {f"{_name(rank)}, of 160": pair for rank, pair in sorted(found.items())},
        seeds,
        f"at a prose loss of {LOSS} each rank has more than full training, the intervals apart; it fails if none has",
        decided(all(apart), not any(apart)),
        "At a loss that rank 1 can reach, each at its gentlest rate, rank 1 has them and the others do not.",
        ("curves",),
    )


def _of_rank(curves, seeds):
    same = matched(curves, "size", SIZE)
    by_rank = {rank: [row["intruders"] for (r, _), row in same.items() if r == rank] for rank in RANKS}
    low, high = ([pair[0] for pair in by_rank[rank]] for rank in (min(RANKS), max(RANKS)))
    return Verdict(
        "a lower rank brings more of them, also at equal size of the update",
        WHO,
        {f"{_name(rank)}: middle and half range over rates": _range(pairs) for rank, pairs in by_rank.items()},
        seeds,
        f"at ‖ΔW‖/‖W‖ = {SIZE} rank {min(RANKS)} has more at each rate than rank {max(RANKS)} at any",
        decided(min(low) > max(high), max(low) <= min(high)),
        "Rank r brings hardly more than r in each layer: at rank 1 there are at most 17 in 16 layers. So rank 4 has "
        "most, and rank 64 least.",
        ("curves",),
    )


def _of_size(curves, seeds):
    r2 = {name: explained(curves, [name]) for name in ("size", "rate", "rank")}
    r2["all three"] = explained(curves, ["size", "rank", "rate"])
    more = r2["all three"] - r2["size"]
    most = r2["size"] > max(r2["rank"], r2["rate"])
    return Verdict(
        "it is the size of the update that counts, more than the rank or the rate",
        "asked here",
        {f"R² of {name}": (value, None) for name, value in r2.items()},
        seeds,
        "the size alone explains most of the three, and rank and rate add less than 0.1 to its R²",
        decided(most and more < 0.1, not most or more >= 0.1),
        "Barely: rank and rate add 0.092. The rate explains nearly as much, and a higher one makes the update larger; "
        "the rank alone hardly anything. All looks from step 40 on are in the fits, so those at one run, too.",
        ("curves",),
    )


def _of_reduction(curves, seeds):
    usual, half = without(curves, 0.75), without(curves, 0.5)
    return Verdict(
        "making them smaller brings back what was forgotten, at little cost",
        WHO,
        {
            "at 0.75, part of the forgotten that comes back": usual["back"],
            "at 0.75, part of the learnt that goes": usual["lost"],
            "at 0.5, part of the forgotten that comes back": half["back"],
            "at 0.5, part of the learnt that goes": half["lost"],
        },
        seeds,
        "at 0.75 of their strength more of the forgotten comes back than of the learnt goes, the intervals apart",
        decided(higher(usual["back"], usual["lost"]), higher(usual["lost"], usual["back"])),
        "At 0.75, the usual value, a sixth of it comes back. At half their strength it costs more than it brings.",
        ("curves",),
    )


def _name(rank):
    return "full" if rank == "full" else f"rank {rank}"


def _range(pairs):
    """The middle of the range of several means, and half its width."""
    means = [pair[0] for pair in pairs]
    return (max(means) + min(means)) / 2, (max(means) - min(means)) / 2
