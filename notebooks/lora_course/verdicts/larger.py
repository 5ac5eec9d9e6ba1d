"""Capacity at ranks up to 64 and widths up to 128, and of facts: `capacity.py` goes on, on a GPU.

A fact is a string of which the first 16 characters are its name and the others what is known of it. The name is given,
and only the rest is learnt and counted. The rate of a width and rank is the one that remembers most of strings of the
usual load in short runs, on all linear layers; all else that is tried there has it, too. `python -m
lora_course.verdicts larger --device cuda` makes the runs.
"""

import numpy as np

from .capacity import DONE, LOAD, NEAR, PLACES, SEEDS, STEPS, TWO, per_parameter
from .statistics import by, interval
from .verdict import TWO_BITS, WITHOUT_REGRET, Verdict, below, decided, outside, within

TRIED = (2e-3, 4e-3, 8e-3, 1.6e-2)  # rates
TRIED_AT_64 = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
SHORT, LONG = STEPS // 4, 4 * STEPS  # steps of the runs that choose a rate, and of those that have more time
MORE = 4.8  # bits of the strings for each trained parameter, beside the usual 1.2
SETTINGS = (  # width, rank, what is learnt, its bits for each trained parameter, steps
    (64, 1, "strings", LOAD, STEPS),
    (64, 16, "strings", LOAD, STEPS),
    (128, 1, "strings", LOAD, STEPS),
    (64, 1, "facts", LOAD, STEPS),
    (128, 16, "strings", LOAD, STEPS),
    (64, 16, "facts", LOAD, STEPS),
    (64, 64, "strings", LOAD, STEPS),
    (128, 64, "strings", LOAD, STEPS),
    (64, 16, "strings", MORE, STEPS),
    (128, 1, "strings", MORE, STEPS),
    (128, 16, "strings", MORE, STEPS),
    (64, 64, "strings", MORE, STEPS),
    (64, 16, "strings", MORE, LONG),
    (64, 64, "strings", MORE, LONG),
)
SETTING = ("width", "rank", "data", "load", "steps")  # the same, as fields of a run
PLACED = ((64, 16), (64, 64))  # width and rank at which attention and the MLP alone are tried, too


def _point(width, rank, data, load, steps, rate, seed, targets="all linear"):
    where = {"width": width, "targets": targets, "rank": rank, "data": data, "load": load, "steps": steps}
    return {"method": "LoRA", **where, "rate": rate, "seed": seed}


def plan(done=()):
    """Short runs at four or five rates for each width and rank; then, at the rate that remembers most, three seeds."""
    found = []
    for width, rank in dict.fromkeys(setting[:2] for setting in SETTINGS):
        tried = TRIED_AT_64 if rank == 64 else TRIED
        short = [run for run in done if (run["width"], run["rank"], run["steps"]) == (width, rank, SHORT)]
        found += [_point(width, rank, "strings", LOAD, SHORT, rate, 0) for rate in tried]
        if len(short) == len(tried):
            best = max(short, key=per_parameter)["rate"]
            own = [setting for setting in SETTINGS if setting[:2] == (width, rank)]
            found += [_point(*setting, best, seed) for setting in own for seed in SEEDS]
            if (width, rank) in PLACED:
                where = (width, rank, "strings", LOAD, STEPS, best)
                found += [_point(*where, seed, place) for place in PLACES[:-1] for seed in SEEDS]
    return found


def small_plan(done=()):
    """Rank 1 at the smaller width, at two rates."""
    return plan()[:2]


def table(data):
    """{(width, rank, what, load, steps): (trained parameters, interval of the bits for each)}, on all linear layers."""
    groups, found = by([run for run in data["runs"] if run["targets"] == "all linear"], *SETTING), {}
    for setting in SETTINGS:
        runs = groups[setting]
        found[setting] = runs[0]["trainable"], interval([per_parameter(run) for run in runs])
    return found


def usual(data):
    """The runs of the usual length on strings of the usual load, on all linear layers."""
    wanted = {"targets": "all linear", "steps": STEPS, "data": "strings", "load": LOAD}
    return [run for run in data["runs"] if wanted.items() <= run.items()]


def places(data):
    """{(width, rank): {place: bits a parameter, the mean of the seeds}}, of strings of the usual load."""
    found = {}
    for run in data["runs"]:
        where = run["width"], run["rank"]
        if where in PLACED and (run["steps"], run["data"], run["load"]) == (STEPS, "strings", LOAD):
            found.setdefault(where, {}).setdefault(run["targets"], []).append(per_parameter(run))
    return {where: {place: float(np.mean(own)) for place, own in held.items()} for where, held in found.items()}


def powers(data, low, high):
    """{width: interval of b}: bits ~ parameters^b from one rank to another, of strings of the usual load."""
    found = {}
    for width, own in by(usual(data), "width").items():
        ranks = {rank: {run["seed"]: run for run in runs} for rank, runs in by(own, "rank").items()}
        pairs = [(ranks[low][seed], ranks[high][seed]) for seed in SEEDS]
        more = [np.log([max(run["remembered"]) for run in pair]) for pair in pairs]
        sizes = [np.log([run["trainable"] for run in pair]) for pair in pairs]
        found[width] = interval([np.diff(y)[0] / np.diff(x)[0] for x, y in zip(sizes, more, strict=True)])
    return found


def longer(data):
    """{rank: by which factor four times the steps remember more of 4.8 bits of strings each}, by means, at width 64."""
    held = {setting: pair[0] for setting, (_, pair) in table(data).items()}
    return {rank: held[64, rank, "strings", MORE, LONG] / held[64, rank, "strings", MORE, STEPS] for rank in (16, 64)}


def of_facts(data):
    """{(width, rank): interval of the bits of facts over those of strings}, seed by seed, of the usual load."""
    wanted = {"targets": "all linear", "steps": STEPS, "load": LOAD}
    groups = by([run for run in data["runs"] if wanted.items() <= run.items()], "width", "rank", "data")
    found = {}
    for (width, rank, what), runs in groups.items():
        if what == "facts":
            strings = {run["seed"]: per_parameter(run) for run in groups[width, rank, "strings"]}
            found[width, rank] = interval([per_parameter(run) / strings[run["seed"]] for run in runs])
    return found


def verdicts(data):
    """Five claims."""
    held = {setting: pair for setting, (_, pair) in table(data).items()}
    facts, placed, more_time = of_facts(data), places(data), longer(data)
    more = {setting: pair for setting, pair in held.items() if setting[3] == MORE}
    ratios = {where: max(found.values()) / min(found.values()) for where, found in placed.items()}
    return [
        Verdict(
            "at higher ranks and widths LoRA does remember two bits for each trained parameter",
            TWO_BITS,
            {_named(setting): pair for setting, pair in held.items()}
            | {f"{LONG // STEPS} times the steps, rank {r}: times as much": (x, None) for r, x in more_time.items()},
            len(SEEDS),
            f"with {MORE} bits of strings for each parameter within a factor of {NEAR} of {TWO:.0f}, the whole "
            f"interval, in one setting at least; it fails if each lies below, and {LONG // STEPS} times the steps add "
            f"less than {100 * (DONE - 1):.0f}%",
            decided(
                any(within(pair, TWO / NEAR, TWO * NEAR) for pair in more.values()),
                all(below(pair, TWO / NEAR) for pair in more.values()) and max(more_time.values()) < DONE,
            ),
            "At width 64 rank 16 comes to 1.4 in four times the steps, which add an eighth. At rank 64 they add two "
            "fifths: 1.3. Four times the strings about double it. So the end is not seen, and the most was 1.4.",
            ("larger",),
        ),
        _in_proportion(
            data, 1, 16, "Faster, as from rank 1 to 4: sixteen times the parameters hold 26 and 34 times as much."
        ),
        _in_proportion(
            data,
            16,
            64,
            "At width 128 it does. At width 64 it may be slower; of more strings rank 64 was still learning.",
        ),
        Verdict(
            "as many bits of facts are remembered as of strings",
            "asked here",
            {f"facts over strings, width {w}, rank {r}": pair for (w, r), pair in facts.items()},
            len(SEEDS),
            f"each ratio is within a factor of {NEAR} of 1, the whole interval",
            decided(
                all(within(pair, 1 / NEAR, NEAR) for pair in facts.values()),
                all(outside(pair, 1 / NEAR, NEAR) for pair in facts.values()),
            ),
            "At rank 16 they are. At rank 1 three seeds do not tell: they differ by more than the two kinds do.",
            ("larger",),
        ),
        Verdict(
            "at ranks 16 and 64 it does not matter where the parameters are",
            "asked here",
            {f"the best place over the worst, width {w}, rank {r}": (x, None) for (w, r), x in ratios.items()},
            len(SEEDS),
            f"at each rank, below {NEAR}; it fails if at each above",
            decided(max(ratios.values()) < NEAR, min(ratios.values()) > NEAR),
            "Attention alone holds six tenths of what the best place does, at the rate that is best for all layers.",
            ("larger",),
        ),
    ]


def _named(setting):
    width, rank, what, load, steps = setting
    return f"bits a parameter, width {width}, rank {rank}, {what} of {load}" + f", {steps:,} steps" * (steps != STEPS)


def _in_proportion(data, low, high, seen):
    slopes = powers(data, low, high)
    return Verdict(
        f"from rank {low} to {high} what an adapter remembers grows in proportion to its parameters",
        f"{WITHOUT_REGRET}, as taken for granted",
        {f"b in bits ~ parameters^b, width {width}": pair for width, pair in slopes.items()},
        len(SEEDS),
        "b lies between 0.9 and 1.1 at both widths, the whole intervals",
        decided(
            all(within(pair, 0.9, 1.1) for pair in slopes.values()),
            all(outside(pair, 0.9, 1.1) for pair in slopes.values()),
        ),
        seen,
        ("larger",),
    )
