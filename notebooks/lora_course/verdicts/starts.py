"""A or B random at the start (Hayou et al., 2024, arXiv 2406.08447): which learns better, and at which rate?

`python -m lora_course.verdicts starts` makes the runs.
"""

from .points import STARTS
from .statistics import at_edge, best_rates, by, chosen, differences, final, interval
from .verdict import Verdict, above, below, decided


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


def verdicts(starts):
    """Two claims."""
    who = "[Hayou et al., 2024](https://arxiv.org/abs/2406.08447)"
    ranks = sorted({run["rank"] for run in starts["runs"]})
    lags, ratios = ({r: function(starts, r) for r in ranks} for function in (behind, rate_ratio))
    seeds = len({run["seed"] for run in starts["runs"]})
    return [
        Verdict(
            "A random and B zero ends better than B random and A zero",
            who,
            {f"B first minus A first, rank {rank}": pair for rank, pair in lags.items()},
            seeds,
            "at each rank the difference in test loss lies above 0",
            decided(all(map(above, lags.values())), all(map(below, lags.values()))),
            "At rank 4 it is clear, at rank 64 no difference is seen.",
            ("starts",),
        ),
        Verdict(
            "A random and B zero allows a higher rate",
            who,
            {f"best rate, A first over B first, rank {rank}": pair for rank, pair in ratios.items()},
            seeds,
            "at each rank the ratio lies above 1",
            decided(all(above(p, 1) for p in ratios.values()), all(below(p, 1) for p in ratios.values())),
            "At rank 64 the best rates are alike. At rank 4 that of A first is higher with each seed, by factors of "
            "1.1 to 2.0.",
            ("starts",),
        ),
    ]
