"""The learning rate's course over a run: what fraction of the highest rate each step has."""

import math
from collections.abc import Callable, Mapping
from typing import Any


def warmup_cosine(step: int, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """The fraction of the learning rate at a step (from 0): a straight rise, then half a cosine down to `floor`.

    Step `warmup` has the fraction 1, and steps after `total` have `floor`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


# Transformers' courses. All rise from 0 in a straight line first. These say how each goes on from there: `done` is the
# part of the remaining steps that is done, 0 to 1; the value is the fraction of the highest rate.
Course = Callable[..., float]


def linear(done: float, left: float) -> float:
    """Down to 0 in a straight line. left: the part that is not done; none where the rise takes all steps."""
    return max(0.0, left)


def cosine(done: float, num_cycles: float = 0.5) -> float:
    """Along so many periods of a cosine: half of one ends at 0."""
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * num_cycles * done)))


def cosine_with_restarts(done: float, num_cycles: int = 1) -> float:
    """Down half a cosine, so many times."""
    return 0.0 if done >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * (num_cycles * done % 1.0))))


def cosine_with_min_lr(
    done: float, rate: float, num_cycles: float = 0.5, min_lr_rate: float | None = None, min_lr: float | None = None
) -> float:
    """As `cosine`, down to `min_lr_rate`, a part of the highest `rate`, or to the rate `min_lr`, instead of 0."""
    if min_lr is not None and min_lr_rate is not None:
        raise ValueError(f"min_lr={min_lr} and min_lr_rate={min_lr_rate} say one thing twice: give one of them")
    min_lr_rate = min_lr / rate if min_lr is not None else min_lr_rate or 0.0
    factor = 0.5 * (1 + math.cos(2 * math.pi * num_cycles * done))
    return max(0.0, factor * (1 - min_lr_rate) + min_lr_rate)


def polynomial(done: float, rate: float, lr_end: float = 1e-7, power: float = 1.0) -> float:
    """Down to `lr_end`, a rate, as a power of what is left; `rate` is the highest. ValueError if that is not higher."""
    if lr_end >= rate:
        raise ValueError(f"lr_end={lr_end} must be below the highest learning rate, {rate}")
    return lr_end / rate if done > 1 else ((rate - lr_end) * (1 - done) ** power + lr_end) / rate


def constant_with_warmup(done: float) -> float:
    """On as it is."""
    return 1.0


SCHEDULES: dict[str, Course] = {
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "cosine_with_min_lr": cosine_with_min_lr,
    "polynomial": polynomial,
    "constant_with_warmup": constant_with_warmup,
}
RATED = ("polynomial", "cosine_with_min_lr")  # what is told the highest rate
PLAIN: dict[str, set[str]] = {"constant": set(), "inverse_sqrt": {"timescale"}}  # without a function; their options
OWN = "warmup_cosine"  # the default here; see `warmup_cosine`
NAMES = (OWN, *PLAIN, *SCHEDULES)


def rate_fraction(
    name: str, step: int, total: int, warmup: int, rate: float = 1.0, options: Mapping[str, Any] | None = None
) -> float:
    """The fraction of the highest learning rate at a step (from 0), by the name that Transformers gives the course.

    total, warmup   steps of the run, and of the rise at its beginning
    rate            the highest learning rate, for courses that end at a rate which is given
    options         `lr_scheduler_kwargs`: what the course can be told besides, such as num_cycles
    As in Transformers the first step of a rise has the rate 0. "constant" has none.
    """
    options = dict(options or {})
    if name in PLAIN and (unknown := sorted(options.keys() - PLAIN[name])):
        raise TypeError(f"the course {name!r} has no option {unknown[0]!r}")
    if name == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if name == "inverse_sqrt":
        scale = options.get("timescale") or warmup or 10_000
        return 1 / math.sqrt((step + scale - warmup) / scale)
    remaining = max(1, total - warmup)
    more = {"linear": {"left": (total - step) / remaining}}.get(name, {"rate": rate} if name in RATED else {})
    return SCHEDULES[name]((step - warmup) / remaining, **more, **options)
