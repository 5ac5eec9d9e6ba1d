"""What a verdict is: a claim, who made it, what was measured, and what follows by a rule that stands beside it."""

from typing import NamedTuple

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "not settled"


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
