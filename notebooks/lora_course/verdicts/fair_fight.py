"""Nineteen of the family, each at its own best rate: how far apart are they? Twelve of them at three sizes.

"Learning rate matters" (arXiv 2602.04998) says: within 1 to 2% once the rate is tuned. `python -m lora_course.verdicts
family` makes the runs, `... times` the times of a step.
"""

import itertools

import numpy as np

from .family import IN_ALL_SIZES, MORE_SEEDS, SEEDS, SIZES, chosen_rate
from .statistics import by, differences, final, interval
from .verdict import RATE_MATTERS, Verdict, above, below, decided, within_two_percent

ALL_SEEDS = (*SEEDS, *MORE_SEEDS)
USUAL = SIZES[0]  # the size at which all of them are compared


def best(family, size=USUAL):
    """{method: its runs at the rate that is best for it, one for each seed}, at one of SIZES."""
    found = {}
    for method, runs in by([run for run in family["runs"] if run["size"] == size], "method").items():
        at = {run["seed"]: run for run in runs if run["rate"] == chosen_rate(runs)}
        found[method] = [at[seed] for seed in ALL_SEEDS]
    return found


def table(family, times=None, size=USUAL):
    """A row for each method, the best first, as a dict: "method", "rate", "trainable" and these.

    prose           interval of the test loss on prose
    source          interval of the rise of the loss on source: what was forgotten
    behind          interval of the loss on prose minus LoRA's, seed by seed
    percent         the same in % of LoRA's mean loss
    bytes           of the trained numbers in float32
    milliseconds    a step takes, or None without `times`
    """
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
                "percent": tuple(100 * x / plain for x in behind),
                "trainable": runs[0]["trainable"],
                "bytes": 4 * runs[0]["trainable"],
                "milliseconds": clock.get(method),
            }
        )
    return sorted(rows, key=lambda row: row["prose"][0])


def front(rows):
    """The methods of these rows that no other one betters in both, loss on prose and what was forgotten, by means."""
    places = {row["method"]: (row["prose"][0], row["source"][0]) for row in rows}
    return [
        method
        for method, (loss, lost) in places.items()
        if not any(x <= loss and y <= lost and (x, y) != (loss, lost) for x, y in places.values())
    ]


def of_one_size(family):
    """{LoRA's rank: {method: its row of the table}}, of those that are about as large as LoRA at each rank."""
    tables = {size: {row["method"]: row for row in table(family, size=size)} for size in sorted(SIZES)}
    names = [n for n in IN_ALL_SIZES if n != "LoRA" and all(_alike(rows[n], rows["LoRA"]) for rows in tables.values())]
    return {size: {name: rows[name] for name in names} for size, rows in tables.items()}


def at_as_many(family, method):
    """{LoRA's rank: [for each seed, the method's loss minus that of LoRA with as many parameters]}.

    LoRA's losses are joined by lines between its three ranks, over the logarithm of their parameters. Beyond its
    lowest and highest rank the nearest line is drawn on.
    """
    runs = {size: best(family, size) for size in sorted(SIZES)}
    sizes = np.log([found["LoRA"][0]["trainable"] for found in runs.values()])
    losses = np.array([[final(run) for run in found["LoRA"]] for found in runs.values()])
    found = {}
    for size, own in runs.items():
        x = np.log(own[method][0]["trainable"])
        i = int(np.clip(np.searchsorted(sizes, x), 1, len(sizes) - 1))
        part = (x - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
        line = losses[i - 1] + part * (losses[i] - losses[i - 1])
        found[size] = list(np.array([final(run) for run in own[method]]) - line)
    return found


def apart(family):
    """{LoRA's rank: [for each seed, how far those `of_one_size` are from LoRA of as many parameters, on average]}."""
    methods = next(iter(of_one_size(family).values()))
    behind = [at_as_many(family, name) for name in methods]
    return {size: list(np.mean([np.abs(found[size]) for found in behind], 0)) for size in sorted(SIZES)}


def verdicts(family):
    """How far apart are they once tuned, and at other sizes?"""
    rows = {row["method"]: row for row in table(family)}
    alike = {name: row for name, row in rows.items() if name != "LoRA" and _alike(row, rows["LoRA"])}
    percent = {f"{name}, % of LoRA's loss": row["percent"] for name, row in alike.items()}
    behind = {f"{name} minus LoRA": row["behind"] for name, row in alike.items()}
    return [
        Verdict(
            "once each has its own rate, the relatives are within 2% of LoRA",
            RATE_MATTERS,
            percent,
            len(ALL_SEEDS),
            "each relative of about LoRA's size differs by less than 2% of the test loss, the whole interval; it fails "
            "if one differs by more",
            within_two_percent(percent),
            "Six are within 2%, seven are not, two have the line in their intervals; of what LoRA gained, they lack up "
            "to 25%.",
            ("family",),
        ),
        Verdict(
            "some relative of the same size is better than LoRA",
            "the papers of most of them",
            dict(sorted(behind.items(), key=lambda item: item[1][0])[:3]),
            len(ALL_SEEDS),
            "one has a lower test loss, its whole interval below 0",
            decided(any(map(below, behind.values())), all(map(above, behind.values()))),
            "DoRA, of fifteen that were tried: by a third of a percent, and its step takes 2.5 times as long. It has "
            "7% more parameters.",
            ("family",),
        ),
        _at_other_sizes(family),
        _larger_are_closer(family),
        *_dora(family),
        _vera(family),
    ]


def _at_other_sizes(family):
    percent = {
        f"{name}, rank {size}, % of LoRA's loss": row["percent"]
        for size, rows in of_one_size(family).items()
        if size != USUAL
        for name, row in rows.items()
    }
    return Verdict(
        "at the sizes of ranks 1 and 32 the relatives are within 2% of LoRA, too",
        RATE_MATTERS,
        percent,
        len(ALL_SEEDS),
        "each of those that are about as large as LoRA at all ranks differs by less than 2% of the test loss, the "
        "whole interval; it fails if one differs by more",
        within_two_percent(percent),
        "Of ten, five are within 2% at rank 1 and seven at rank 32, and two have the line in their intervals each "
        "time. PiSSA, SHiRA and MiSS are out at rank 1, OFT at rank 32. They have from 0.56 to 2 times LoRA's "
        "parameters: behind LoRA of as many, LoHa is out at rank 1, too, by 3.0%, and none is at rank 32.",
        ("family",),
    )


def _larger_are_closer(family):
    found = apart(family)
    sizes = list(found)
    steps = {
        f"rank {b} minus rank {a}": interval(np.subtract(found[b], found[a])) for a, b in itertools.pairwise(sizes)
    }
    return Verdict(
        "the larger the adapter, the less it matters which relative one takes",
        "asked here",
        {f"mean distance from LoRA of as many parameters, rank {size}": interval(found[size]) for size in sizes}
        | steps,
        len(ALL_SEEDS),
        "from each size to the next the mean distance falls, the whole interval of the difference below 0; it fails if "
        "it rises once, the whole interval above",
        decided(all(map(below, steps.values())), any(map(above, steps.values()))),
        "The mean distance halves from rank 1 to rank 32. It is not so for each: LoRA+ goes further away. And without "
        "LoHa, MiSS or SHiRA the first step would not be clear.",
        ("family",),
    )


def _dora(family):
    """Two claims: at LoRA's rank, and at as many parameters."""
    liu = "[Liu et al., 2024](https://arxiv.org/abs/2402.09353)"
    as_many = {size: interval(values) for size, values in at_as_many(family, "DoRA").items()}
    runs = {size: best(family, size) for size in as_many}
    behind = {size: interval(differences(found["DoRA"], found["LoRA"])) for size, found in runs.items()}
    most = min(behind, key=lambda size: behind[size][0])
    return [
        Verdict(
            "DoRA is better than LoRA of the same rank, most of all at low rank",
            liu,
            {f"DoRA minus LoRA, rank {size}": pair for size, pair in behind.items()},
            len(ALL_SEEDS),
            "it is below 0 at each rank, the whole interval, and lowest at rank 1; it fails if it is above 0 at one, "
            "the whole interval",
            decided(all(map(below, behind.values())) and most == min(behind), any(map(above, behind.values()))),
            "At rank 1 by 0.012. But it has more parameters there: 12,800 against 8,192.",
            ("family",),
        ),
        Verdict(
            "DoRA is better than LoRA of as many parameters",
            "asked here",
            {f"DoRA minus LoRA of as many parameters, rank {size}": pair for size, pair in as_many.items()},
            len(ALL_SEEDS),
            "it is below 0 at each rank, the whole interval; it fails if it is above 0 at one, the whole interval",
            decided(all(map(below, as_many.values())), any(map(above, as_many.values()))),
            "At ranks 8 and 32 it is, by 0.002 and 0.001. At rank 1 it is not seen to be.",
            ("family",),
        ),
    ]


def _vera(family):
    found = {size: interval(values) for size, values in at_as_many(family, "VeRA").items()}
    counts = {size: best(family, size)["VeRA"][0]["trainable"] for size in found}
    return Verdict(
        "VeRA needs fewer parameters than LoRA for the same loss",
        "[Kopiczko et al., 2024](https://arxiv.org/abs/2310.11454)",
        {f"VeRA minus LoRA of as many parameters, {counts[size]:,}": pair for size, pair in found.items()},
        len(ALL_SEEDS),
        "at each of its sizes its loss is lower than that of LoRA with as many parameters, the whole interval; it "
        "fails if at each it is higher",
        decided(all(map(below, found.values())), all(map(above, found.values()))),
        "LoRA of as many is ahead at each. 5,632 is less than LoRA has at rank 1: there its line is drawn on, and LoRA "
        "may be worse than the line.",
        ("family",),
    )


def _alike(row, plain):
    """Is this one about as large as LoRA?"""
    return 0.5 <= row["trainable"] / plain["trainable"] <= 2
