"""Nineteen of the family, each at its own best rate: how far apart are they?

"Learning rate matters" (arXiv 2602.04998) says: within 1 to 2% once the rate is tuned. `python -m lora_course.verdicts
family` makes the runs, `... times` the times of a step.
"""

from .family import MORE_SEEDS, SEEDS, SIZES, chosen_rate
from .statistics import by, differences, final, interval
from .verdict import Verdict, above, below, decided


def best(family, size=SIZES[0]):
    """{method: its runs at the rate it chose, on all seeds}."""
    found = {}
    for method, runs in by([run for run in family["runs"] if run["size"] == size], "method").items():
        at = {run["seed"]: run for run in runs if run["rate"] == chosen_rate(runs)}
        found[method] = [at[seed] for seed in (*SEEDS, *MORE_SEEDS)]
    return found


def table(family, times=None, size=SIZES[0]):
    """[{"method", "rate", "prose", "source": intervals, "behind": interval of the test loss minus LoRA's, "percent":
    the same of LoRA's loss, "gain": of its gain, "trainable", "bytes", "milliseconds"}], the best first."""
    found, base = best(family, size), family["base"]
    clock = {run["method"]: run["milliseconds"] for run in times["runs"]} if times else {}
    plain = interval([final(run) for run in found["LoRA"]])[0]
    rows = []
    for method, runs in found.items():
        behind = interval(differences(runs, found["LoRA"]))
        rows.append(
            {
                "method": method,
                "rate": runs[0]["rate"],
                "prose": interval([final(run) for run in runs]),
                "source": interval([final(run, "source") - base["source"] for run in runs]),
                "behind": behind,
                "percent": 100 * behind[0] / plain,
                "gain": 100 * behind[0] / (base["prose"] - plain),
                "trainable": runs[0]["trainable"],
                "bytes": 4 * runs[0]["trainable"],
                "milliseconds": clock.get(method),
            }
        )
    return sorted(rows, key=lambda row: row["prose"][0])


def front(rows):
    """The methods that no other one betters in both, the loss on prose and what was forgotten, by means."""
    places = {row["method"]: (row["prose"][0], row["source"][0]) for row in rows}
    return [
        method
        for method, (loss, lost) in places.items()
        if not any(x <= loss and y <= lost and (x, y) != (loss, lost) for x, y in places.values())
    ]


def verdicts(family):
    """How far apart are they once tuned?"""
    rows = {row["method"]: row for row in table(family)}
    alike = {name: row for name, row in rows.items() if name not in ("LoRA", "full") and _alike(row, rows["LoRA"])}
    percent = {name: (row["percent"], 100 * row["behind"][1] / rows["LoRA"]["prose"][0]) for name, row in alike.items()}
    better = [name for name, row in alike.items() if below(row["behind"])]
    return [
        Verdict(
            "once each has its own rate, the relatives are within 2% of LoRA",
            "[Learning rate matters, 2026](https://arxiv.org/abs/2602.04998)",
            {f"{name}, % of LoRA's loss": pair for name, pair in percent.items()},
            len((*SEEDS, *MORE_SEEDS)),
            "each relative of about LoRA's size differs by less than 2% of the test loss",
            decided(all(abs(p) + w < 2 for p, w in percent.values()), any(abs(p) - w > 2 for p, w in percent.values())),
            "Six are within 2%, seven are not, two are at the line; of what LoRA gained, they lack up to 25%.",
            ("family",),
        ),
        Verdict(
            "some relative of the same size is better than LoRA",
            "the papers of most of them",
            {
                f"{name} minus LoRA": alike[name]["behind"]
                for name in sorted(alike, key=lambda n: alike[n]["behind"][0])[:3]
            },
            len((*SEEDS, *MORE_SEEDS)),
            "one has a lower test loss, its whole interval below 0",
            decided(bool(better), all(above(row["behind"]) for row in alike.values())),
            "DoRA, of fifteen that were tried: by a third of a percent, and its step takes twice the time.",
            ("family",),
        ),
    ]


def _alike(row, plain):
    return 0.5 < row["trainable"] / plain["trainable"] < 2
