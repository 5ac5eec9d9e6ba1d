"""The learning rate's course over a run."""

import math


def warmup_cosine(step: int, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """The fraction of the learning rate at a step (from 0): a straight rise, then half a cosine down to `floor`.

    Step `warmup` has the fraction 1, and steps after `total` have `floor`.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
