"""Capacity at higher ranks and a larger width, and of facts: `capacity.py` goes on, on a GPU.

A fact is a string of which the first 16 characters are its name and the others what is known of it. The name is given,
and only the rest is learnt and counted. `python -m lora_course.verdicts larger --device cuda` makes the runs.
"""

import numpy as np

from .capacity import LOAD, NEAR, SEEDS, STEPS, TWO, per_parameter
from .statistics import by, interval
from .verdict import Verdict, above, below, decided

TRIED = (2e-3, 4e-3, 8e-3, 1.6e-2)  # rates
SHORT = STEPS // 4  # steps of the runs that choose one
MORE = 4.8  # bits of the strings for each trained parameter, beside the usual 1.2
SETTINGS = (  # width, rank, what is learnt, its bits for each trained parameter
    (64, 1, "strings", LOAD),
    (64, 16, "strings", LOAD),
    (128, 1, "strings", LOAD),
    (64, 1, "facts", LOAD),
    (128, 16, "strings", LOAD),
    (64, 16, "facts", LOAD),
    (64, 16, "strings", MORE),
    (128, 1, "strings", MORE),
)


def _point(width, rank, data, load, steps, rate, seed):
    where = {"width": width, "targets": "all linear", "rank": rank, "data": data, "load": load, "steps": steps}
    return {"method": "LoRA", **where, "rate": rate, "seed": seed}


def plan(done=()):
    """Short runs at four rates for each width and rank; then, at the rate that remembers most, three seeds."""
    sizes, found = tuple(dict.fromkeys(setting[:2] for setting in SETTINGS)), []
    for width, rank in sizes:
        short = [run for run in done if (run["width"], run["rank"], run["steps"]) == (width, rank, SHORT)]
        found += [_point(width, rank, "strings", LOAD, SHORT, rate, 0) for rate in TRIED]
        if len(short) == len(TRIED):
            best = max(short, key=per_parameter)["rate"]
            chosen = [setting for setting in SETTINGS if setting[:2] == (width, rank)]
            found += [_point(*setting, STEPS, best, seed) for setting in chosen for seed in SEEDS]
    return found


def small_plan(done=()):
    """Rank 1 at the smaller width, at two rates."""
    return plan()[:2]


def table(data):
    """{(width, rank, what, load): (trained parameters, interval of the bits for each)}."""
    groups = by([run for run in data["runs"] if run["steps"] == STEPS], "width", "rank", "data", "load")
    return {
        setting: (groups[setting][0]["trainable"], interval([per_parameter(run) for run in groups[setting]]))
        for setting in SETTINGS
    }


def powers(data):
    """{width: interval of b}, bits ~ parameters^b from one rank to the next of the same width, with 1.2 bits each."""
    found = {}
    kept = [run for run in data["runs"] if (run["steps"], run["data"], run["load"]) == (STEPS, "strings", LOAD)]
    for width, own in by(kept, "width").items():
        slopes = []
        for runs in by(own, "seed").values():
            x = np.log([run["trainable"] for run in runs])
            y = np.log([max(run["remembered"]) for run in runs])
            slopes.append(np.polyfit(x, y, 1)[0])
        found[width] = interval(slopes)
    return found


def of_facts(data):
    """{(width, rank): interval of what is remembered of facts over what is of strings}, of as many bits."""
    groups = by([run for run in data["runs"] if (run["steps"], run["load"]) == (STEPS, LOAD)], "width", "rank", "data")
    found = {}
    for (width, rank, what), runs in groups.items():
        if what == "facts":
            strings = {run["seed"]: per_parameter(run) for run in groups[width, rank, "strings"]}
            found[width, rank] = interval([per_parameter(run) / strings[run["seed"]] for run in runs])
    return found


def verdicts(data):
    """Three claims."""
    held = {setting: pair for setting, (_, pair) in table(data).items()}
    slopes, facts = powers(data), of_facts(data)
    allen = "[Allen-Zhu and Li, 2024](https://arxiv.org/abs/2404.05405), of models trained whole"
    more = {setting: pair for setting, pair in held.items() if setting[3] == MORE}
    return [
        Verdict(
            "at higher ranks and widths LoRA does remember two bits for each trained parameter",
            allen,
            {f"bits a parameter, width {w}, rank {r}, {x} of {load}": pair for (w, r, x, load), pair in held.items()},
            len(SEEDS),
            f"with {MORE} bits of strings for each parameter within a factor of {NEAR} of {TWO:.0f}, the whole "
            "interval, in one setting at least; it fails if each lies below",
            decided(
                any(above(pair, TWO / NEAR) and below(pair, TWO * NEAR) for pair in more.values()),
                all(below(pair, TWO / NEAR) for pair in more.values()),
            ),
            "Rank 16 comes to 1.3, and has 4.8 bits to learn for each. More steps may bring more; they were not tried.",
            ("larger",),
        ),
        Verdict(
            "from rank 1 to 16 what an adapter remembers grows in proportion to its parameters",
            "[Schulman and Thinking Machines Lab, 2025](https://thinkingmachines.ai/blog/lora/), as taken for granted",
            {f"b in bits ~ parameters^b, width {width}": pair for width, pair in slopes.items()},
            len(SEEDS),
            "b lies between 0.9 and 1.1 at both widths, the whole intervals",
            decided(
                all(above(p, 0.9) and below(p, 1.1) for p in slopes.values()),
                all(above(p, 1.1) or below(p, 0.9) for p in slopes.values()),
            ),
            "Faster, as from rank 1 to 4: sixteen times the parameters hold 26 and 34 times as much.",
            ("larger",),
        ),
        Verdict(
            "as many bits of facts are remembered as of strings",
            "asked here",
            {f"facts over strings, width {w}, rank {r}": pair for (w, r), pair in facts.items()},
            len(SEEDS),
            f"each ratio is within a factor of {NEAR} of 1, the whole interval",
            decided(
                all(above(p, 1 / NEAR) and below(p, NEAR) for p in facts.values()),
                all(above(p, NEAR) or below(p, 1 / NEAR) for p in facts.values()),
            ),
            "At rank 16 they are. At rank 1 three seeds do not tell: the strings differ more than the kinds.",
            ("larger",),
        ),
    ]
