"""The data sets: which runs each has. A point is a dict that JSON can hold; a run is a point with what came of it.

Points are listed in the order in which they are worth making: a command that is stopped early has made the first ones.
"""

from . import capacity, family, four_bits, larger, reward, second, second_bits, second_rank

SEEDS = (0, 1, 2, 3, 4)
FIRST_SEEDS = (0, 1, 2)  # of all data sets, before any has the others
RANKS = (1, 4, 16, 64)  # of the curves
ALPHA = 32  # s = 32 / r, as in "LoRA without regret"
RATES = {"LoRA": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), "full": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)}
CURVE_RATES = {"LoRA": (5e-4, *RATES["LoRA"]), "full": (1.25e-4, *RATES["full"])}  # a constant rate is better lower
BATCHES = (4, 16, 64)  # rows; all runs see the same number of windows
WINDOWS = 2560
PLACED = (
    ("q and v", 60),
    ("attention", 40),
    ("MLP", 24),
    ("all linear", 15),
    ("attention", 5),
    ("MLP", 3),
)  # equal sizes
STARTS = ("A first", "B first")  # which of the two is random at the start; the other is zero
WIDTHS = {256: (0, 1), 512: (0,)}  # of the models that rates are compared over, and the seeds
RULES = ("alpha / r", "alpha / sqrt(r)")
SCALED_RANKS = (1, 8, 64, 256)
EQUAL_RANK = 8  # at which both rules give s = 2
PROTECTED = {  # what is tried against forgetting, beside plain LoRA and full training: fields of a point
    "weight decay 0.5": {"method": "LoRA", "weight_decay": 0.5},
    "weight decay 2": {"method": "LoRA", "weight_decay": 2.0},
    "replay of 2 in 16": {"method": "LoRA", "replay": 2},
    "replay of 5 in 16": {"method": "LoRA", "replay": 5},
    "full, replay of 2 in 16": {"method": "full", "replay": 2},
}

SETTINGS = {  # how each data set trains; marks: the steps at which a run is looked at
    "curves": {"steps": 400, "schedule": "constant", "marks": (10, 20, 40, 80, 120, 160, 240, 320, 400)},
    "protected": {"steps": 400, "schedule": "constant", "marks": (10, 20, 40, 80, 120, 160, 240, 320, 400)},
    "placement": {"steps": 160},
    "starts": {"steps": 160},
    "batch": {},
    "family": {"steps": 160},
    "scaling": {"steps": 100},
    "times": {"steps": 45},
    "four_bits": {"steps": 60, "batch": 4},
    "bases": {"steps": 1200, "batch": 32},
}
SMALL = {"steps": 12, "batch": 4, "window": 64, "evaluations": 8, "marks": (6, 12)}


def lora(rank, targets="all linear", **more):
    """The fields of a point that is plain LoRA with s = 32 / r."""
    return {"method": "LoRA", "targets": targets, "rank": rank, "scaling": ALPHA / rank, **more}


def curves(done=()):
    """Ranks and full training at six rates each, at a constant rate, looked at along the way."""
    full = ({"method": "full"}, CURVE_RATES["full"])
    return _crossed([full, *((lora(rank), CURVE_RATES["LoRA"]) for rank in RANKS)], SEEDS)


def placement(done=()):
    """Equal numbers of parameters in attention, in the MLP, and in both."""
    return _crossed([(lora(rank, targets), "LoRA") for targets, rank in PLACED], SEEDS)


def batch(done=()):
    """Batches of 4, 16 and 64 rows for LoRA and full training, on equally many windows.

    The rates go with the root of the batch.
    """
    found = []
    for size in BATCHES:
        for fields, method in ((lora(16), "LoRA"), ({"method": "full"}, "full")):
            rates = [rate * (size / 16) ** 0.5 for rate in RATES[method]]
            found += [{**fields, "batch": size, "rate": rate, "seed": s} for s in FIRST_SEEDS for rate in rates]
    return found


def starts(done=()):
    """A random and B zero, or the other way round, at six rates and two ranks."""
    rates = (*RATES["LoRA"], 3.2e-2)
    both = [(lora(rank, start=start), rates) for rank in (4, 64) for start in STARTS]
    return _crossed(both, FIRST_SEEDS)


def protected(done=()):
    """What might keep the base, at two rates each."""
    rates = {"LoRA": (2e-3, 8e-3), "full": (5e-4, 1e-3)}
    found = []
    for name, fields in PROTECTED.items():
        plain = lora(16) if fields["method"] == "LoRA" else {}
        found.append(({**plain, **fields, "name": name}, rates[fields["method"]]))
    return _crossed(found, SEEDS[:4])


def times(done=()):
    """Each relative at a rate that hurts none: how long a step takes. To be made in one process, on a quiet machine."""
    methods = (*family.CONFIGS, "full")
    return [
        {"method": method, "size": size, "rate": 1e-4, "seed": 0} for size in family.SIZES[:1] for method in methods
    ]


def rounded(done=()):
    """LoRA beside the base in floats and in 4 bits, each way at three rates. Short enough for a CPU."""
    methods = [({"method": method}, (2e-3, 4e-3, 8e-3)) for method in four_bits.SETTINGS]
    return _crossed(methods, FIRST_SEEDS)


def scaling(done=()):
    """Both rules of scaling over ranks and widths, each at six rates. The bases of all widths are made first."""
    bases = [{"method": "base", "width": width, "seed": 0} for width in WIDTHS]
    made = {run["width"] for run in done if run["method"] == "base"}
    found = []
    for width in WIDTHS:
        for rank in SCALED_RANKS:
            for rule in RULES:
                if (rank == EQUAL_RANK and rule != RULES[0]) or (width == 512 and rank == 1):
                    continue
                s = 2 * EQUAL_RANK / rank if rule == RULES[0] else 2 * (EQUAL_RANK / rank) ** 0.5
                fields = {**lora(rank), "scaling": s, "rule": rule, "width": width}
                found.append((fields, (1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)))
    points = _crossed(found, FIRST_SEEDS)
    return bases + [p for p in points if p["width"] in made and p["seed"] in WIDTHS[p["width"]]]


def lateness(name, point):
    """From 0 on: which points are made only after all others of all data sets."""
    if point.get("size", family.SIZES[0]) != family.SIZES[0]:
        return 2 + family.IN_ALL_SIZES.index(point["method"])  # one after the other, so that some are whole
    if name == "second":
        return second.lateness(point)
    return int(point["seed"] > 0 if name == "scaling" else point["seed"] not in FIRST_SEEDS)


def _crossed(combinations, seeds):
    """All rates of all combinations for one seed, then for the next. combinations: (fields, rates or their name)."""
    return [
        {**fields, "rate": rate, "seed": seed}
        for seed in seeds
        for fields, rates in combinations
        for rate in (RATES[rates] if isinstance(rates, str) else rates)
    ]


PLANS = {  # name: what gives its points, those that follow from earlier runs included
    "curves": curves,
    "placement": placement,
    "starts": starts,
    "family": family.plan,
    "batch": batch,
    "protected": protected,
    "scaling": scaling,
    "times": times,
    "four_bits": rounded,
    "capacity": capacity.plan,
    "reward": reward.plan,
    "second": second.plan,
    "second_bits": second_bits.plan,
    "second_rank": second_rank.plan,
    "larger": larger.plan,
}


def settings(name, point, small=False):
    """Steps, batch, window, schedule and marks of one point of a data set."""
    size = point.get("batch", SETTINGS["bases" if point["method"] == "base" else name].get("batch", 16))
    found = {"batch": size, "window": 256, "evaluations": 64, "schedule": "cosine"}
    found |= SETTINGS["bases" if point["method"] == "base" else name]
    found["steps"] = found.get("steps") or WINDOWS // size
    if small:
        found |= {key: value for key, value in SMALL.items() if key != "marks"}
        found |= {"marks": SMALL["marks"]} if "marks" in found else {}
    return {"marks": (found["steps"],), **found}


def small_plan(name, done=()):
    """A few points of a data set, of one seed: to see that all of it works, not what it says."""
    own = {"capacity": capacity, "reward": reward, "second": second, "larger": larger}
    own |= {"second_bits": second_bits, "second_rank": second_rank}
    if name in own:
        return own[name].small_plan()
    points = [point for point in PLANS[name]() if point["seed"] == 0]
    if name == "family":
        return points[::2]
    if name == "scaling":
        points = [point for point in scaling(done) if point["seed"] == 0 and point["width"] == min(WIDTHS)]
        return [p for p in points if p["method"] == "base" or (p["rate"] in (5e-3, 1e-2) and p["rank"] in (1, 8))]
    if name == "times":
        return points
    if name == "protected":
        return [point for point in points if point["rate"] in (5e-4, 2e-3)]
    rates = sorted({point["rate"] for point in points})
    return [point for point in points if point["rate"] in rates[1::3]]
