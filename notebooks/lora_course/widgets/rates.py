"""A map of the shipped sweep: learning rate by rank, each cell with the runs behind it."""

from lora_course.sweep import RANKS, RATES, RULES, TARGETS, select, shipped, tuned

from .widget import Widget, table

LOSSES = ("validation", "prose", "source")


def _groups():
    """{name to choose: (targets, rule)}: every target set, and the other rules for alpha."""
    groups = {f"{targets}, alpha = 2r": (targets, "alpha = 2r") for targets in TARGETS}
    groups |= {f"all linear, {rule}": ("all linear", rule) for rule in list(RULES)[1:]}
    return groups


def cells(runs, targets, rule):
    """[rank][rate] = [[validation, prose, source] of each seed], None where a run diverged."""
    found = select(runs, targets=targets, rule=rule)
    return [[_losses(found, rank, rate) for rate in RATES["LoRA"]] for rank in RANKS]


def _losses(runs, rank, rate):
    return [[run[name] for name in LOSSES] for run in select(runs, rank=rank, learning_rate=rate)]


def rate_map(sweep=None, start="all linear, alpha = 2r"):
    """Rank against learning rate, a cell for each three runs of the sweep; a cell opens them.

    sweep: as `lora_course.sweep.shipped` returns it, the default. `start` is the group that is shown first.
    """
    sweep = sweep or shipped()
    groups = _groups()
    maps = {name: cells(sweep["runs"], *group) for name, group in groups.items()}
    sizes = {t: [select(sweep["runs"], targets=t, rank=r)[0]["trainable"] for r in RANKS] for t in TARGETS}
    (full,) = tuned(select(sweep["runs"], method="full"))
    data = {
        "ranks": RANKS, "rates": RATES["LoRA"], "base": sweep["base"], "maps": maps, "start": start,
        "groups": groups, "sizes": sizes, "full": full["prose"][0], "steps": sweep["about"]["steps"],
    }  # fmt: skip
    rows = [[r, *(_mean(cell) for cell in row)] for r, row in zip(RANKS, maps[start], strict=True)]
    caption = f"{start}: loss on held-out prose, mean of three seeds, nats per byte"
    head = ("rank", *(f"lr {rate:g}" for rate in RATES["LoRA"]))
    return Widget("rates", data, "Learning rate and rank: open a cell", table(caption, head, rows))


def _mean(cell):
    losses = [seed[1] for seed in cell]
    return "-" if None in losses else f"{sum(losses) / len(losses):.3f}"
