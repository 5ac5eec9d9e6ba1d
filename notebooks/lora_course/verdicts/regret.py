"""LoRA without regret (Schulman and Thinking Machines Lab, 2025): six things that it says, tried in small.

`python -m lora_course.verdicts curves placement batch` makes the runs; the best rates are of the rank sweep, which has
the paper's rule for alpha: the same at every rank.
"""

import math

from lora_np import costs
from lora_np.models.llama import LlamaConfig

from ..adaptation import Adaptation
from .points import RANKS
from .statistics import best_rates, by, chosen, differences, final, interval
from .verdict import WITHOUT_REGRET, Verdict, above, below, decided

ALL = "all linear"
LEFT = 0.01  # nats per byte: a curve that is so far above full training's has left it


def of_sweep(sweep, rule="alpha = 16"):
    """Runs of the rank sweep (notebook 06) in the form of this package: all linear layers under one rule, and full."""
    kept = [run for run in sweep["runs"] if run["method"] == "full" or (run["targets"], run["rule"]) == (ALL, rule)]
    return [
        {
            **{name: run[name] for name in ("method", "rank", "seed")},
            "rate": run["learning_rate"],
            "step": [sweep["about"]["steps"]],
            **{name: [run[name]] for name in ("validation", "prose", "source")},
            "diverged": run["validation"] is None,
        }
        for run in kept
    ]


def rates(sweep, rule="alpha = 16"):
    """{rank or "full": {seed: best rate}}."""
    return {rank or "full": best_rates(runs) for rank, runs in by(of_sweep(sweep, rule), "rank").items()}


def ratios(sweep, rule="alpha = 16"):
    """{rank: interval of LoRA's best rate over full training's}, seed by seed."""
    found = rates(sweep, rule)
    full = found["full"]
    return {r: interval([rate / full[seed] for seed, rate in found[r].items()]) for r in sorted(set(found) - {"full"})}


def spread(sweep, rule="alpha = 16"):
    """The highest of the ranks' best rates over the lowest: an interval over seeds."""
    found = rates(sweep, rule)
    ranks = [found[r] for r in found if r != "full"]
    return interval([max(own[s] for own in ranks) / min(own[s] for own in ranks) for s in found["full"]])


def placed(placement):
    """{(targets, rank): (interval of the test loss, rate)} of equal sizes, each at its best rate."""
    best = {key: chosen(runs) for key, runs in by(placement["runs"], "targets", "rank").items()}
    return {key: (interval([final(run) for run in runs]), runs[0]["rate"]) for key, runs in best.items()}


def lag(placement, one, other):
    """How far one (targets, rank) is behind another, as a part of the other's gain: an interval over seeds."""
    groups = by(placement["runs"], "targets", "rank")
    runs, others = chosen(groups[one]), chosen(groups[other])
    gain = placement["base"]["prose"] - interval([final(run) for run in others])[0]
    return interval([difference / gain for difference in differences(runs, others)])


def batch_gaps(batch):
    """{rows of a batch: interval of LoRA's test loss minus full training's}, each at its best rate."""
    found = {}
    for rows, runs in sorted(by(batch["runs"], "batch").items()):
        methods = {name: chosen(own) for name, own in by(runs, "method").items()}
        found[rows] = interval(differences(methods["LoRA"], methods["full"]))
    return found


def batch_slope(batch):
    """How much larger the gap is at the largest batch than at the smallest: an interval over seeds."""
    groups = by(batch["runs"], "batch")
    gaps = []
    for rows in (max(groups), min(groups)):
        methods = {name: chosen(own) for name, own in by(groups[rows], "method").items()}
        gaps.append(differences(methods["LoRA"], methods["full"]))
    return interval([large - small for large, small in zip(*gaps, strict=True)])


def envelopes(curves, loss="prose"):
    """{rank or "full": {step: the least mean loss over the rates}}: the best that a method reaches by each step."""
    found = {}
    for rank, runs in by(curves["runs"], "rank").items():
        marks = sorted({step for run in runs for step in run["step"]})
        groups = by(runs, "rate").values()
        means = {step: [interval([final(run, loss, step) for run in own])[0] for own in groups] for step in marks}
        found[rank or "full"] = {step: min(values) for step, values in means.items()}
    return found


def leaves(curves):
    """{rank: (first step from which on LoRA's best is more than 0.01 above full training's, the gap at the end)}.

    None for a rank that has not left.
    """
    found = envelopes(curves)
    full, steps = found["full"], list(found["full"])
    result = {}
    for rank in sorted(set(found) - {"full"}):
        behind = [found[rank][step] - full[step] > LEFT for step in steps]
        left = next((step for i, step in enumerate(steps) if all(behind[i:])), None)
        result[rank] = left, found[rank][steps[-1]] - full[steps[-1]]
    return result


def batch_ratios(batch):
    """{rows of a batch: interval of LoRA's best rate over full training's}, at rank 16 and alpha 32."""
    found = {}
    for rows, runs in sorted(by(batch["runs"], "batch").items()):
        lora, full = (best_rates([run for run in runs if run["method"] == method]) for method in ("LoRA", "full"))
        found[rows] = interval([lora[seed] / full[seed] for seed in full])
    return found


def operations(config, ranks, batch=16, length=256):
    """{rank: floating-point operations of a LoRA step on all linear layers over those of full training's}."""
    full = costs.flops(config, batch=batch, length=length, method="full")["total"]
    every = "all-linear"
    return {r: costs.flops(config, r, every, batch=batch, length=length)["total"] / full for r in ranks}


def verdicts(sweep, curves, placement, batch):
    """The six. sweep: that of notebook 06."""
    return [
        _tenfold(sweep, batch),
        _of_ranks(sweep),
        _of_places(placement),
        _of_batches(batch),
        _of_capacity(curves),
        _of_operations(),
    ]


def _tenfold(sweep, batch):
    numbers = {f"ratio, alpha 16, rank {rank}": pair for rank, pair in ratios(sweep).items()}
    numbers |= {f"ratio, alpha 32, rank 16, batch of {rows}": pair for rows, pair in batch_ratios(batch).items()}
    means = [pair[0] for pair in numbers.values()]
    return Verdict(
        "LoRA's best rate is about ten times full training's",
        WITHOUT_REGRET,
        numbers,
        len(rates(sweep)["full"]),
        "each ratio is between 5 and 20, by its mean",
        decided(all(5 <= mean <= 20 for mean in means), all(not 5 <= mean <= 20 for mean in means)),
        "It is higher, by a factor nearer 6 than 10; twice the alpha, and it is nearer 5, and once below.",
        ("rank_sweep", "batch"),
    )


def _of_ranks(sweep):
    found = spread(sweep)
    return Verdict(
        "the best rate hardly depends on the rank",
        WITHOUT_REGRET,
        {"highest of the best rates of ranks 1 to 128 over the lowest": found},
        len(rates(sweep)["full"]),
        "that ratio's interval lies below 2",
        decided(below(found, 2), above(found, 2)),
        "With one alpha for all ranks, so that s = alpha / r. With alpha = 2r it falls by a factor of 10 and more.",
        ("rank_sweep",),
    )


def _of_places(placement):
    behind = lag(placement, ("attention", 40), ("MLP", 24)), lag(placement, ("MLP", 24), (ALL, 15))
    behind = dict(zip(("attention behind MLP", "MLP behind all layers"), behind, strict=True))
    attention, mlp = behind.values()
    return Verdict(
        "attention alone loses at equal size; the MLP alone does nearly as well as all layers",
        WITHOUT_REGRET,
        {f"{name}, part of the gain": pair for name, pair in behind.items()},
        len({run["seed"] for run in placement["runs"]}),
        "attention's lag lies above 0, and the MLP's below 0.05 of the gain; it fails if either is clearly otherwise",
        decided(above(attention) and below(mlp, 0.05), below(attention) or above(mlp, 0.05)),
        "122,880 parameters each: rank 40 in attention, 24 in the MLP, 15 in both.",
        ("placement",),
    )


def _of_batches(batch):
    gaps, slope = batch_gaps(batch), batch_slope(batch)
    return Verdict(
        "larger batches cost LoRA more than full training",
        WITHOUT_REGRET,
        {f"LoRA minus full, batch of {rows}": pair for rows, pair in gaps.items()}
        | {f"gap at {max(gaps)} minus gap at {min(gaps)}": slope},
        len({run["seed"] for run in batch["runs"]}),
        "the gap grows from the smallest batch to the largest",
        decided(above(slope), below(slope)),
        "No growth is seen from 4 rows to 64, at rank 16 and equally many windows, so in fewer steps.",
        ("batch",),
    )


def _of_capacity(curves):
    left = leaves(curves)
    steps = [math.inf if step is None else step for step, _ in left.values()]
    return Verdict(
        "a rank follows full training until its capacity is used up; low ranks leave first",
        WITHOUT_REGRET,
        {f"rank {rank} leaves at step": (step, None) for rank, (step, _) in left.items()}
        | {f"rank {rank}, gap at step 400": (gap, None) for rank, (_, gap) in left.items()},
        len({run["seed"] for run in curves["runs"]}),
        f"the higher the rank, the later its best curve is {LEFT} above full training's for good; the highest "
        "never is. It fails if the order is another",
        decided(steps == sorted(steps) and steps[-1] == math.inf and steps[0] < math.inf, steps != sorted(steps)),
        "The order is as they say. But ranks 1 and 4 never follow; rank 64, 61% of the parameters, leaves too. A best "
        "curve is the lowest mean loss of six rates at each step.",
        ("curves",),
    )


def _of_operations():
    here = operations(Adaptation(steps=1, evaluations=1).base().config.to_dict(), RANKS)
    large = operations(LlamaConfig().to_dict(), (16,), batch=1, length=2048)
    return Verdict(
        "a step of LoRA takes two thirds of the operations",
        WITHOUT_REGRET,
        {f"share, rank {rank}": (value, None) for rank, value in here.items()}
        | {"share, Llama-2-7B's shape, rank 16, 2,048 tokens": (large[16], None)},
        0,
        "within 0.05 of 2/3 at rank 1 of the small model",
        decided(abs(here[1] - 2 / 3) < 0.05, abs(here[1] - 2 / 3) >= 0.05),
        "It holds for a wide model. In one of width 128 attention and the branch weigh more.",
        (),
    )
