"""A or B random at the start (Hayou et al., 2024, arXiv 2406.08447): which learns better, and at which rate?

`python -m lora_course.verdicts starts` makes the runs.
"""

from .points import STARTS
from .statistics import at_edge, best_rates, by, chosen, differences, final, interval


def table(starts):
    """{(rank, start): {"prose": interval at the best rate, "rate", "at_edge", "seeds"}}."""
    found = {}
    for key, runs in by(starts["runs"], "rank", "start").items():
        best = chosen(runs)
        prose = interval([final(run) for run in best])
        found[key] = {"prose": prose, "rate": best[0]["rate"], "at_edge": at_edge(runs), "seeds": len(best)}
    return found


def behind(starts, rank):
    """How much higher the test loss is with B first, each at its best rate: an interval over seeds."""
    groups = by(starts["runs"], "rank", "start")
    return interval(differences(chosen(groups[rank, "B first"]), chosen(groups[rank, "A first"])))


def rate_ratio(starts, rank):
    """The best rate with A first over that with B first: an interval over seeds."""
    groups = by(starts["runs"], "rank", "start")
    first, other = (best_rates(groups[rank, start]) for start in STARTS)
    return interval([first[seed] / other[seed] for seed in sorted(set(first) & set(other))])
