"""What a verdict is: a claim, who made it, what was measured, and what follows, by a rule that was fixed beforehand."""

from typing import NamedTuple

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "not settled"


class Verdict(NamedTuple):
    """One line of the page.

    numbers    {what it is: (mean, half width of the 95% interval or None)}
    rule       when the claim counts as holding
    verdict    HOLDS, FAILS or OPEN
    """

    claim: str
    said_by: str
    numbers: dict
    seeds: int
    rule: str
    verdict: str
    data: str


def decided(holds, fails):
    """HOLDS, FAILS, or OPEN where neither was shown."""
    return HOLDS if holds else FAILS if fails else OPEN


def above(pair, bound=0.0):
    """Does the whole interval lie above the bound?"""
    return pair[0] - (pair[1] or 0.0) > bound


def below(pair, bound=0.0):
    """Does the whole interval lie below the bound?"""
    return pair[0] + (pair[1] or 0.0) < bound
