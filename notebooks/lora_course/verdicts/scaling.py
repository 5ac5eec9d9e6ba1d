"""alpha / r or alpha / sqrt(r), over ranks and widths: under which rule does the best rate stay where it is?

rsLoRA (Kalajdzievski, 2023, arXiv 2312.03732) argues for the root. `python -m lora_course.verdicts scaling` makes the
runs at widths 256 and 512, after their bases; those at width 128 are of the rank sweep of notebook 06. At rank 8 both
rules have s = 2 in the first, at rank 1 s = 16 in the second.
"""

import math

import numpy as np

from .points import EQUAL_RANK, RULES
from .regret import of_sweep
from .statistics import best_rate, by, final, interval
from .verdict import Verdict, decided

FACTOR = 1.5  # how near a suggested rate has to come
SWEPT = {"alpha / r": ("alpha = 16", 1.0), "alpha / sqrt(r)": ("alpha = 16, rsLoRA", 0.5), "2": ("alpha = 2r", 0.0)}
SHARED_RANKS = (8, 64)  # with one scaling at all widths under alpha / r


def optima(scaling, sweep):
    """[{"width", "rank", "rule", "seed", "scaling", "rate": the best between the tried ones, "edge": is it at an edge of
    what was tried?}]. Rank 8 of the scaling runs stands under both rules."""
    found = []
    for (width, rank, rule, seed), own in by(_adapted(scaling), "width", "rank", "rule", "seed").items():
        row = {"width": width, "rank": rank, "seed": seed, "scaling": own[0]["scaling"], **_best(own)}
        found += [{**row, "rule": name} for name in (RULES if rank == EQUAL_RANK else [rule])]
    for rule, (name, power) in SWEPT.items():
        runs = [run for run in of_sweep(sweep, name) if run["method"] == "LoRA"]
        for (rank, seed), own in by(runs, "rank", "seed").items():
            s = 2.0 if rule == "2" else 16 / rank**power
            found.append({"width": 128, "rank": rank, "rule": rule, "seed": seed, "scaling": s, **_best(own)})
    return found


def _adapted(scaling):
    return [run for run in scaling["runs"] if run["method"] != "base"]


def _best(runs):
    losses = {run["rate"]: final(run, "validation") for run in runs}
    rate = best_rate(losses)
    return {"rate": rate, "edge": rate in (min(losses), max(losses))}


def mean_optima(scaling, sweep):
    """{(width, rank, rule): (geometric mean of the best rate over seeds, scaling)}, without those at an edge."""
    groups = by(optima(scaling, sweep), "width", "rank", "rule")
    return {
        key: (math.exp(np.mean([math.log(row["rate"]) for row in rows])), rows[0]["scaling"])
        for key, rows in groups.items()
        if not any(row["edge"] for row in rows)
    }


def drift(scaling, sweep, rule):
    """The exponent p in best rate ~ rank^p under a rule: an interval over the pairs of width and seed."""
    groups = by([row for row in optima(scaling, sweep) if row["rule"] == rule], "width", "seed").values()
    enough = [rows for rows in groups if len(rows) > 2]
    slopes = [np.polyfit(np.log([r["rank"] for r in rows]), np.log([r["rate"] for r in rows]), 1)[0] for rows in enough]
    return interval(slopes)


def over_widths(scaling, sweep):
    """{rank: {width: mean best rate}} where rank and scaling are the same at all widths."""
    found = mean_optima(scaling, sweep)
    widths = sorted({width for width, _, _ in found})
    return {rank: {width: found[width, rank, RULES[0]][0] for width in widths} for rank in SHARED_RANKS}


def law(sweep, scaling):
    """(a, b, c) of log rate = a + b log rank + c log s, fitted to the rank sweep alone: width 128, three rules."""
    rows = [(rank, s, rate) for (width, rank, _), (rate, s) in mean_optima(scaling, sweep).items() if width == 128]
    ranks, s, rates = np.log(np.array(rows)).T
    return np.linalg.lstsq(np.stack([np.ones_like(ranks), ranks, s], 1), rates, rcond=None)[0]


def suggested_rate(rank, scaling, coefficients):
    """The rate that the law gives for a rank and a scaling s."""
    a, b, c = coefficients
    return math.exp(a + b * math.log(rank) + c * math.log(scaling))


def misses(scaling, sweep):
    """{(width, rank, rule): by which factor, at least 1, the law of width 128 misses that best rate}."""
    coefficients, found = law(sweep, scaling), {}
    for (width, rank, rule), (rate, s) in mean_optima(scaling, sweep).items():
        if width != 128 and not (rank == EQUAL_RANK and rule == RULES[1]):
            ratio = suggested_rate(rank, s, coefficients) / rate
            found[width, rank, rule] = max(ratio, 1 / ratio)
    return found


def verdicts(scaling, sweep):
    """Which rule keeps the best rate where it is, and can it be foretold?"""
    drifts = {rule: drift(scaling, sweep, rule) for rule in RULES}
    plain, root = (drifts[rule] for rule in RULES)
    apart = abs(abs(plain[0]) - abs(root[0])) > plain[1] + root[1]
    ratios = {rank: max(own.values()) / min(own.values()) for rank, own in over_widths(scaling, sweep).items()}
    errors = misses(scaling, sweep)
    worst = max(errors.values())
    seeds = len({(row["width"], row["seed"]) for row in optima(scaling, sweep)})
    return [
        Verdict(
            "with alpha / sqrt(r) the best rate stays where it is as the rank grows, with alpha / r it does not",
            "[Kalajdzievski, 2023](https://arxiv.org/abs/2312.03732), as it is often told",
            {f"p in best rate ~ rank^p, {rule}": pair for rule, pair in drifts.items()},
            seeds,
            "p is nearer to 0 with the root, by more than both intervals",
            decided(apart and abs(root[0]) < abs(plain[0]), apart and abs(root[0]) > abs(plain[0])),
            "scaling, rank_sweep",
        ),
        Verdict(
            "LoRA's best rate hardly depends on the width of the model",
            "[Schulman and Thinking Machines Lab, 2025](https://thinkingmachines.ai/blog/lora/), nearly",
            {
                f"highest over lowest of widths 128, 256, 512, rank {rank}": (ratio, None)
                for rank, ratio in ratios.items()
            },
            seeds,
            f"below {FACTOR} at ranks 8 and 64",
            decided(max(ratios.values()) < FACTOR, min(ratios.values()) > FACTOR),
            "scaling, rank_sweep",
        ),
        Verdict(
            "the best rate can be foretold from the rank and the scaling",
            "asked here",
            {
                "largest factor by which the law of width 128 misses": (worst, None),
                f"settings within {FACTOR}, of {len(errors)}": (
                    sum(error <= FACTOR for error in errors.values()),
                    None,
                ),
            },
            seeds,
            f"a power law of width 128 is within {FACTOR} at each setting of widths 256 and 512",
            decided(worst <= FACTOR, worst > FACTOR),
            "scaling, rank_sweep",
        ),
    ]
