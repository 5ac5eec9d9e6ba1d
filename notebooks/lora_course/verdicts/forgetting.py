"""What really preserves the base: how much is forgotten once equally much has been learnt?

`python -m lora_course.verdicts curves protected` makes the runs. Biderman et al. (2024, arXiv 2405.09673): "LoRA learns
less and forgets less".
"""

from .statistics import by, interval, value_at, where
from .verdict import Verdict, above, below, decided

LEARNT = (1.12, 1.06)  # nats per byte of test prose at which runs are compared


def label_of(run):
    """What a run is called in tables."""
    if "name" in run:
        return run["name"]
    return "full" if run["method"] == "full" else f"LoRA r={run['rank']}"


def forgotten(curves, protected, level):
    """{(label, rate): interval of the rise of the loss on source where prose gets to `level`}.

    Between the marks of each run; only where all seeds get there. The second of the pair is nan for a single seed.
    """
    base, found = curves["base"], {}
    for (label, rate), runs in by(
        [{**r, "label": label_of(r)} for r in _all(curves, protected)], "label", "rate"
    ).items():
        places = [where(run, "prose", level, base["prose"]) for run in runs]
        if all(place is not None for place in places):
            rises = [value_at(r, p, "source", base["source"]) for r, p in zip(runs, places, strict=True)]
            found[label, rate] = interval([rise - base["source"] for rise in rises])
    return found


def _all(curves, protected):
    return curves["runs"] + (protected["runs"] if protected else [])


def least(curves, protected, level):
    """{label: (rate, interval)}: each method at the rate at which it forgets least for what it learnt."""
    found = {}
    for (label, rate), pair in forgotten(curves, protected, level).items():
        if label not in found or pair[0] < found[label][1][0]:
            found[label] = rate, pair
    return dict(sorted(found.items(), key=lambda item: item[1][1][0]))


def fronts(curves, protected=None):
    """{label: [(learnt, forgotten) ...]}: means over seeds at every mark and rate that no other of them betters."""
    base, found = curves["base"], {}
    for (label, _rate), runs in by(
        [{**r, "label": label_of(r)} for r in _all(curves, protected)], "label", "rate"
    ).items():
        for i in range(min(len(run["step"]) for run in runs)):
            learnt = base["prose"] - interval([run["prose"][i] for run in runs])[0]
            lost = interval([run["source"][i] for run in runs])[0] - base["source"]
            found.setdefault(label, []).append((learnt, lost))
    return {label: _front(places) for label, places in found.items()}


def _front(places):
    best = []
    for learnt, lost in sorted(places, key=lambda place: (place[1], -place[0])):
        if learnt > 0 and (not best or learnt > best[-1][0]):
            best.append((learnt, lost))
    return best


def verdicts(curves, protected):
    """Does LoRA forget less for what it learns, and what helps more?"""
    level = LEARNT[1]
    found = least(curves, protected, level)
    plain = {label: pair for label, (_, pair) in found.items() if label.startswith("LoRA")}
    full, seeds = found["full"][1], len({run["seed"] for run in curves["runs"]})
    replayed = found["replay of 2 in 16"][1]
    decay = found["weight decay 2"][1]
    reference = plain["LoRA r=16"]
    return [
        Verdict(
            "LoRA learns less and forgets less",
            "[Biderman et al., 2024](https://arxiv.org/abs/2405.09673)",
            {"full": full, **plain},
            seeds,
            f"at a prose loss of {level} each rank forgets less than full training, the intervals apart",
            decided(
                all(_clear(full, pair) for pair in plain.values()),
                all(not _clear(full, pair) for pair in plain.values()),
            ),
            "curves",
        ),
        Verdict(
            "weight decay of A and B towards zero preserves the base",
            "tutorials",
            {"plain, rank 16": reference, "with weight decay 2": decay},
            seeds,
            f"at a prose loss of {level} it forgets less, the intervals apart",
            decided(_clear(reference, decay), _clear(decay, reference)),
            "protected",
        ),
        Verdict(
            "a little of the old text in each batch preserves it",
            "tutorials",
            {"plain, rank 16": reference, "2 rows in 16 replayed": replayed},
            seeds,
            f"at a prose loss of {level} it forgets less than half as much",
            decided(
                below((replayed[0] - reference[0] / 2, replayed[1])),
                above((replayed[0] - reference[0] / 2, replayed[1])),
            ),
            "protected",
        ),
    ]


def _clear(more, less):
    """Does the one interval lie above the other?"""
    return more[0] - more[1] > less[0] + less[1]
