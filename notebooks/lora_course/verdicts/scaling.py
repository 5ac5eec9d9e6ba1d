"""alpha / r or alpha / sqrt(r), over ranks and widths: under which rule does the best rate stay where it is?

rsLoRA (Kalajdzievski, 2023, arXiv 2312.03732) argues for the root. `python -m lora_course.verdicts scaling` makes the
runs, and the bases of four widths before them. Both rules have s = 2 at rank 8.
"""

import numpy as np

from .points import EQUAL_RANK, RULES
from .statistics import best_rate, by, final, interval
from .verdict import Verdict, above, below, decided

FACTOR = 1.5  # how near a suggested rate has to come


def optima(scaling):
    """[{"width", "rank", "rule", "seed", "scaling", "rate": the best between the tried ones, "loss": the least mean
    validation loss}], over all widths, ranks and rules; rank 8 stands under both rules."""
    runs = [run for run in scaling["runs"] if run["method"] != "base"]
    found = []
    for (width, rank, rule, seed), own in by(runs, "width", "rank", "rule", "seed").items():
        losses = {run["rate"]: final(run, "validation") for run in own}
        row = {"width": width, "rank": rank, "seed": seed, "scaling": own[0]["scaling"]}
        row |= {"rate": best_rate(losses), "loss": min(losses.values()), "prose": min(final(run) for run in own)}
        found += [{**row, "rule": name} for name in (RULES if rank == EQUAL_RANK else [rule])]
    return found


def mean_optima(scaling):
    """{(width, rank, rule): (geometric mean of the best rate over seeds, how many seeds)}."""
    return {
        key: (float(np.exp(np.mean([np.log(row["rate"]) for row in rows]))), len(rows))
        for key, rows in by(optima(scaling), "width", "rank", "rule").items()
    }


def drift(scaling, rule, axis="rank"):
    """The exponent p in best rate ~ axis^p ("rank" or "width") under a rule, the other one's levels taken out.

    An interval over seeds. 0: the best rate stays where it is.
    """
    other = {"rank": "width", "width": "rank"}[axis]
    slopes = []
    for rows in by([row for row in optima(scaling) if row["rule"] == rule], "seed").values():
        levels = sorted({row[other] for row in rows})
        X = [[float(row[other] == level) for level in levels] + [np.log(row[axis])] for row in rows]
        slopes.append(np.linalg.lstsq(np.array(X), np.log([row["rate"] for row in rows]), rcond=None)[0][-1])
    return interval(slopes)


def fit(rows):
    """The coefficients of log rate = a + b log rank + c log s + d log width."""
    return np.linalg.lstsq(_columns(rows), np.log([row["rate"] for row in rows]), rcond=None)[0]


def _columns(rows):
    return np.array([[1.0, np.log(row["rank"]), np.log(row["scaling"]), np.log(row["width"])] for row in rows])


def held_out_errors(scaling):
    """{(width, rank, rule): by which factor, at least 1, the fit to all *other* widths misses the best rate}."""
    means = [
        {"width": width, "rank": rank, "rule": rule, "rate": rate, "scaling": scale_of(rank, rule)}
        for (width, rank, rule), (rate, _) in mean_optima(scaling).items()
        if not (rank == EQUAL_RANK and rule == RULES[1])
    ]
    errors = {}
    for row in means:
        others = [other for other in means if other["width"] != row["width"]]
        predicted = float(np.exp(_columns([row]) @ fit(others))[0])
        errors[row["width"], row["rank"], row["rule"]] = max(predicted / row["rate"], row["rate"] / predicted)
    return errors


def scale_of(rank, rule):
    """s of a rank under a rule, 2 at rank 8 under both."""
    return 2 * EQUAL_RANK / rank if rule == RULES[0] else 2 * (EQUAL_RANK / rank) ** 0.5


def verdicts(scaling):
    """Which rule keeps the best rate where it is, and can it be foretold?"""
    drifts = {rule: drift(scaling, rule) for rule in RULES}
    widths = {rule: drift(scaling, rule, "width") for rule in RULES}
    errors = held_out_errors(scaling)
    worst, within = max(errors.values()), sum(error <= FACTOR for error in errors.values())
    seeds = len({row["seed"] for row in optima(scaling)})
    flat = {rule: abs(pair[0]) for rule, pair in drifts.items()}
    plain, root = (drifts[rule] for rule in RULES)
    apart = abs(plain[0] - root[0]) > plain[1] + root[1]
    return [
        Verdict(
            "with alpha / sqrt(r) the best rate stays where it is as the rank grows, with alpha / r it does not",
            "[Kalajdzievski, 2023](https://arxiv.org/abs/2312.03732)",
            {f"p in rate ~ r^p, {rule}": pair for rule, pair in drifts.items()},
            seeds,
            "p is nearer to 0 with the root, the intervals apart",
            decided(apart and flat[RULES[1]] < flat[RULES[0]], apart and flat[RULES[1]] > flat[RULES[0]]),
            "scaling",
        ),
        Verdict(
            "the best rate of LoRA does not depend on the width of the model",
            "[Schulman and Thinking Machines Lab, 2025](https://thinkingmachines.ai/blog/lora/), nearly",
            {f"p in rate ~ width^p, {rule}": pair for rule, pair in widths.items()},
            seeds,
            "p lies between -0.25 and 0.25 under both rules",
            decided(
                all(above(pair, -0.25) and below(pair, 0.25) for pair in widths.values()),
                all(below(pair, -0.25) or above(pair, 0.25) for pair in widths.values()),
            ),
            "scaling",
        ),
        Verdict(
            "the best rate can be foretold from rank, scaling and width",
            "asked here",
            {
                "largest factor by which a width held out is missed": (worst, None),
                f"settings within {FACTOR}, of {len(errors)}": (within, None),
            },
            seeds,
            f"a power law of the other widths is within a factor of {FACTOR} at each setting of the one held out",
            decided(worst <= FACTOR, worst > FACTOR),
            "scaling",
        ),
    ]
