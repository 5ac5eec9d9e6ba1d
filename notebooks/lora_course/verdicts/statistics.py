"""Intervals, best rates, and values at a matched loss or size: what the verdicts are made of."""

import math

import numpy as np

T_95 = (None, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t by degrees of freedom


def interval(values):
    """(mean, half width of its 95% interval): t s / √n. Of one value the half width is nan."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), T_95[n - 1] * float(values.std(ddof=1)) / n**0.5


def shown(pair, digits=3):
    """An interval as text: 1.234 ± 0.005."""
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def best_rate(losses):
    """The rate with the least loss, from {rate: loss}, between the tried ones: where a parabola has its lowest point.

    The parabola goes through the best rate and its two neighbours, over the logarithm of the rate. At an edge of what
    was tried it is the edge. Rates with a loss of None or inf (diverged) count as neighbours that are worse.
    """
    rates = sorted(losses)
    values = [math.inf if losses[rate] is None else losses[rate] for rate in rates]
    i = int(np.argmin(values))
    if i in (0, len(rates) - 1) or not all(map(math.isfinite, values[i - 1 : i + 2])):
        return rates[i]
    x, y = np.log(rates[i - 1 : i + 2]), values[i - 1 : i + 2]
    a, b, _ = np.polyfit(x, y, 2)
    return float(np.exp(-b / (2 * a)))


def final(run, name="prose", step=None):
    """A run's value at a marked step, by default the last; inf where it had diverged before."""
    steps = run["step"]
    if step is None:
        return math.inf if run["diverged"] else run[name][-1]
    return run[name][steps.index(step)] if step in steps else math.inf


def where(run, name, level, start):
    """The place between marks at which run[name] first gets to `level`; None if it does not.

    (index of the mark after it, the fraction of the way there); `start` is the value before training.
    """
    values = [start, *run[name]]
    for i in range(1, len(values)):
        before, after = values[i - 1], values[i]
        if (before - level) * (after - level) <= 0 and before != after:
            return i - 1, (level - before) / (after - before)
    return None


def value_at(run, place, name, start):
    """run[name] at a place of `where`, on the straight line between the marks."""
    i, fraction = place
    before = run[name][i - 1] if i else start
    return before + fraction * (run[name][i] - before)


def by(runs, *names):
    """{(values of these fields): [runs]}, in order."""
    found = {}
    for run in runs:
        key = tuple(run.get(name) for name in names)
        found.setdefault(key if len(names) > 1 else key[0], []).append(run)
    return found


def chosen(runs, loss="validation", step=None):
    """The runs at the rate that is best by the mean of `loss` over seeds: [run of each seed]."""
    groups = by(runs, "rate")
    most = max(map(len, groups.values()))
    whole = {rate: found for rate, found in groups.items() if len(found) == most}
    return min(whole.values(), key=lambda found: sum(final(run, loss, step) for run in found))


def at_edge(runs, loss="validation"):
    """Is the best rate the lowest or the highest that was tried?"""
    rates = {run["rate"] for run in runs}
    return chosen(runs, loss)[0]["rate"] in (min(rates), max(rates))


def best_rates(runs, loss="validation", step=None):
    """{seed: its best rate between the tried ones}."""
    return {
        seed: best_rate({run["rate"]: final(run, loss, step) for run in found})
        for seed, found in sorted(by(runs, "seed").items())
    }


def differences(runs, others, name="prose"):
    """Seed by seed, how much larger the last value is in `runs` than in `others`."""
    theirs = {run["seed"]: final(run, name) for run in others}
    return [
        final(run, name) - theirs[run["seed"]] for run in sorted(runs, key=lambda r: r["seed"]) if run["seed"] in theirs
    ]
