"""What a verdict is: a claim, who made it, what was measured, and what follows by a rule that stands beside it."""

from typing import NamedTuple

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "not settled"

# Those that say what is tried more than once.
WITHOUT_REGRET = "[Schulman and Thinking Machines Lab, 2025](https://thinkingmachines.ai/blog/lora/)"
LEARNS_LESS = "[Biderman et al., 2024](https://arxiv.org/abs/2405.09673): it learns less and forgets less"
RATE_MATTERS = "[Learning rate matters, 2026](https://arxiv.org/abs/2602.04998)"
TWO_BITS = "[Allen-Zhu and Li, 2024](https://arxiv.org/abs/2404.05405), of models trained whole"


class Verdict(NamedTuple):
    """One line of the page.

    numbers    {what it is: (mean, half width of the 95% interval or None)}
    seeds      runs with different seeds behind each number; 0 where it is counted, not measured
    rule       when the claim counts as holding
    verdict    HOLDS, FAILS or OPEN
    seen       what was seen, in a sentence
    data       the files that the numbers are of
    """

    claim: str
    said_by: str
    numbers: dict
    seeds: int
    rule: str
    verdict: str
    seen: str
    data: tuple


def decided(holds, fails):
    """HOLDS, FAILS, or OPEN where neither was shown."""
    return HOLDS if holds else FAILS if fails else OPEN


def above(pair, bound=0.0):
    """Does the whole interval lie above the bound?"""
    return pair[0] - (pair[1] or 0.0) > bound


def below(pair, bound=0.0):
    """Does the whole interval lie below the bound?"""
    return pair[0] + (pair[1] or 0.0) < bound


def within(pair, low, high):
    """Does the whole interval lie between the two bounds?"""
    return above(pair, low) and below(pair, high)


def outside(pair, low, high):
    """Does the whole interval lie below the one bound, or above the other?"""
    return below(pair, low) or above(pair, high)


def higher(pair, other):
    """Does the whole of one interval lie above the whole of the other?"""
    return pair[0] - pair[1] > other[0] + other[1]


def within_two_percent(percent):
    """HOLDS if all these intervals lie within 2 of 0, FAILS if one of them lies outside."""
    pairs = percent.values()
    return decided(all(within(pair, -2, 2) for pair in pairs), any(outside(pair, -2, 2) for pair in pairs))
