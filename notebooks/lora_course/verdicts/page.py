"""The page of the book: every verdict, with its numbers. `python -m lora_course.verdicts.page` writes it."""

from pathlib import Path

import numpy as np

from lora_np.storage import replacing

from ..sweep import shipped as swept
from . import (
    capacity,
    fair_fight,
    forgetting,
    four_bits,
    intruders,
    larger,
    regret,
    reward,
    scaling,
    second,
    second_bits,
    second_rank,
    starts,
)
from .data import shipped
from .family import IN_ALL_SIZES

PAGE = Path(__file__).parents[2] / "book" / "verdicts.md"
ON_GPU = ("curves", "placement", "batch", "starts", "scaling", "protected", "family", "times", "larger", "second")
ON_CPU = ("four_bits", "capacity", "reward", "second_bits", "second_rank")
NAMES = ON_GPU + ON_CPU
SECOND_SCALE = "A second scale: SmolLM2-135M"
HEAD = """# Verdicts: what LoRA really does, measured in small

Claims of the field, tried on the small model of this book: 858,880 parameters, 128 wide, taught Python source first,
English prose then. {runs} runs on an {device}, {dates}, with products in TF32 ({exact} of
SmolLM2 in float32), and the 600 of notebook 06. {few} more were made on two CPU cores: those in 4 bits, of capacity, of
learning from reward, and a few of VB-LoRA. Those of capacity and of reward have data of their own and models smaller
still, and their sections say which.
Losses are in nats per byte. Thirteen claims are tried on [a second scale](#a-second-scale-smollm2-135m), too:
SmolLM2-135M.

**Words.** LoRA adds ΔW = s B A of rank r, with s = alpha / r, to all linear layers of the blocks unless something else
is said. *Prose* is what is learnt, *source* what the base knew. The *gain* is how far the loss on prose fell; what is
*forgotten* is how far the loss on source rose. The *best rate* is the one of those tried whose loss on validation text
is lowest, by the mean of the seeds. Where rates themselves are compared, it is the lowest point of a parabola through
the best one and its neighbours, for each seed. A rate is *gentlest* if least has been forgotten with it when the loss
on prose has come down to a given level.

Read them for what they are. **A verdict is about this model and this task**: a model three or four orders of magnitude
smaller than those the claims were made about, and runs of 40 to 640 steps. What holds here may not hold there, nor the
other way round. Every method has a search of its own for the rate, chosen on validation text; the numbers are of test
text. Exceptions: the best curve of a rank and the gentlest rate are chosen on test text, from six rates for each
method; what an adapter learns by heart has no test text, and its rate is chosen for a width and rank. "±" is half the
95% interval over seeds, by Student's t; where there is none, the number is one of means. Nothing is corrected for the
number of comparisons.

The rule that decides stands beside each verdict. It says when a claim holds. The claim fails if the opposite is as
clear at each setting that the rule names, or, where the rule has an "it fails if", by that. All else is "not settled".
Most rules were written before the runs. The rules of the scaling runs and four others were changed when results were
there: the tenfold rate is asked at two values of alpha, intruders are made smaller to 0.75 rather than to half, decay
and replay are compared at one rate, and replay need not halve what is forgotten. The family's rules stood when it had
twelve kinds and three seeds; seven kinds, two seeds and two sizes came later. The rules of its last four claims were
written with the runs at hand, and DeLoRA's lambda was lowered at rank 1 after a first try: with PEFT's 15 it ended
above the base's loss at every rate. Of larger adapters, too few bits no longer refute the two for each parameter while
more steps add to them.

The data sets are in `lora_course/verdicts`, one JSON file each, with the command that makes it. The notebook
[13_open_questions](13_open_questions.ipynb) shows the pictures and makes some of the runs again. A test recomputes
every number below from the files with plain NumPy.

| claim | verdict |
|---|---|
"""
INTRODUCTIONS = {
    "LoRA without regret": """
160 steps of 16 rows and a rate that falls along a cosine, but for two: batches of 4, 16 and 64 rows read as many
windows in 640, 160 and 40 steps, and the curves of ranks 1 to 64 have a constant rate over 400 steps. The rates of
ranks 1 to 128 are those of notebook 06, with alpha = 16. All else has alpha = 32.
""",
    "Intruder dimensions": """
Of the 10 strongest left singular vectors of W + ΔW, an intruder is one whose cosine with each of W's own is below 0.5.
In 16 layers there are 160 to look at. The size of an update is ‖ΔW‖ / ‖W‖ over all 16. The runs are the curves of 400
steps; between the steps at which they were looked at, straight lines are drawn.
""",
    "Where to start, how to scale": """
"A first" is A uniform in ±1/√in and B zero, the usual start; "B first" is B uniform in ±1/√r and A zero. Both have
alpha = 32 and 160 steps. The rates over ranks and widths have three seeds at width 128, two at 256 and one at 512, six
pairs of width and seed in all.
""",
    "The family": """
160 steps of 16 rows; LoRA has alpha = 2r. Only the rate of a relative is searched: all else has one setting for each
size, in `family.py`, be it alpha, LoRA+'s ratio of 16 or DeLoRA's lambda. "About LoRA's size" is from half to twice its
trained parameters.
""",
    "Forgetting": """
Runs of 400 steps at a constant rate, with alpha = 32. The lowest rates that were tried are half of what is best after
400 steps, for ranks 16 and 64 as for full training.
""",
    "4 bits": """
Rank 8, alpha = 16, 60 steps of 4 rows, three rates for each way and seed, on two CPU cores. QLoRA learns beside a base
in 4 bits. LoftQ's adapter starts from what rounding took away; its rounded base is kept in floats here. QA-LoRA has a
scale and a zero point for every 16 weights, and a smaller A: 38,656 trained numbers, where the others have 65,536.
"Float base" is LoRA beside the base as it is. Merged, QA-LoRA stays in its groups, and all others are rounded as
QLoRA's base.
""",
    "Capacity": """
GPT-2s of two blocks, 32 and 64 wide, that have read Python source and random strings for 400 steps. LoRA learns other
random strings by heart, in 2,400 steps on all of them at once: 1.2 bits of them for each trained parameter, and at rank
1 on all linear layers other numbers of them, too, with one seed. "Strings of 1.2" are so many; of them no more than 1.2
bits for each parameter can be remembered. What it remembers is their entropy less the length of their code. The rate of
each width and rank is the best of a few in short runs, the same for all places and numbers of strings. Two CPU cores,
in one thread; three seeds. The last five claims go on to ranks 16 and 64, to width 128 and to facts, on an NVIDIA H200:
16 characters are given, and 16 more are learnt. There the rate is the best of four, at rank 64 of five, in runs of 600
steps on strings of 1.2; facts, other places, more strings and longer runs have it, too.
""",
    "Learning from reward": """
A GPT-2 of two blocks, 64 wide, 103,296 parameters, that has read numbers below 1,000 as words: right, digit by digit,
or with a slip. "407=" should become "four hundred seven". The reward is 1 for the right words and 0 for all else; GRPO
([Shao et al., 2024](https://arxiv.org/abs/2402.03300); `grpo.py`, one page) takes 8 answers to each of 8 numbers in a
step, and two updates from them. Examples are 64 right answers in a step. 100 steps at the best of several constant
rates, chosen on other numbers; after the first runs, rates were added where the best had been at an edge. 200 numbers
are held out, and the part of right answers is exact: the mean probability of the right one. "13 numbers" are 13 trained
parameters, TinyLoRA's of rank 2, shared by all layers; LoRA of rank 1 has 2,048. Two CPU cores, in one thread; five
seeds, each with a base of its own.
""",
}
FRONT = "No other one has both a lower loss and less forgotten than these"
SECOND = """
SmolLM2-135M, as `lora-np fetch smollm2` brings it, learns the prose that the small model learns: 48 steps of 8 windows
of 256 tokens (96 steps of 4, 12 of 32), a cosine, alpha = 32 at every rank, losses in nats per token. {seeds} seeds,
{count} runs, NVIDIA H200, {tf32} of the first seed's in TF32, all others in float32. The rates go up and down by
factors of 2, for each seed, until the best one has a worse one on either side; a * would mark one that has not.

What is forgotten is seen on 32 answers that the base itself wrote, at a temperature of 1, to
"{question}"
On these the loss rises by the KL divergence from the base, on average. (Source is of little use here: it is plain text,
too, and at low rates its loss falls.) The last column is that rise where half of what full training gains has been
learnt, at the gentlest of the rates that all seeds tried. In each row that is the lowest of them, half of the best one.

| trained | best rate | loss on prose | part of full training's gain | rise on its own answers |
|---|---|---|---|---|
{rows}
Attention alone is behind, and moves the base's answers most; among the adapters the MLP alone moves them least.

In 4 bits: rank 8, alpha 16, on all linear layers, 24 steps of 8 windows of 128 tokens, on two CPU cores. The first seed
chooses among rates of {rates}, and two more have the best. The base that comes had been rounded to 4 bits
before, by another rule, and is the base in floats here. A * marks a best rate that is the lowest or the highest tried.

| base and adapter | best rate | bytes of the base | loss before | loss after | merged into 4 bits |
|---|---|---|---|---|---|
{bits}
The rank of full training's update: the same steps with all of the model trained, at the rate of the table above. In
each linear layer all but the k strongest directions of its ΔW are cut off. What is left of the gain:

| all else | {cuts} |
|---|{bars}|
{cut}
The energy of the 150 matrices with 576 singular values, the squares of these, on average:

| | in the first 8 directions | directions for half | directions for nine tenths |
|---|---|---|---|
{energy}"""
FOOT = """## What was not done

- On SmolLM2 three relatives are tried, at one rank. In 4 bits the best rate is the highest that was tried, but for
  QA-LoRA. On the small model 4 bits are tried with runs of 60 steps and 4 rows; QA-LoRA's best rate there is the lowest
  that was tried.
- **Capacity**: its end was not reached at width 64, nor at ranks 16 and 64, where four times the strings bring about
  twice the bits.
- Seven of the relatives were compared at one size. Eight of VB-LoRA's fifteen runs were made on two CPU cores, in
  float32.
- Of the curves with a constant rate, the lowest rates that were tried forget least: lower ones may do better still.
- Scaling was tried at widths 256 (two seeds) and 512 (one seed), whose bases were trained for 1,200 steps only.
"""


def all_verdicts():
    """{heading: [Verdict]}, from the files that are shipped."""
    data, sweep = {name: shipped(name) for name in NAMES}, swept()
    curves, batch = data["curves"], data["batch"]
    return {
        "LoRA without regret": regret.verdicts(sweep, curves, data["placement"], batch),
        "Intruder dimensions": intruders.verdicts(curves),
        "Where to start, how to scale": [
            *starts.verdicts(data["starts"]),
            *scaling.verdicts(data["scaling"], sweep, batch, data["starts"]),
        ],
        "The family": fair_fight.verdicts(data["family"]),
        "Forgetting": forgetting.verdicts(curves, data["protected"]),
        "4 bits": four_bits.verdicts(data["four_bits"]),
        "Capacity": [*capacity.verdicts(data["capacity"]), *larger.verdicts(data["larger"])],
        "Learning from reward": reward.verdicts(data["reward"]),
        SECOND_SCALE: [
            *second.verdicts(data["second"]),
            *second_bits.verdicts(data["second_bits"]),
            *second_rank.verdicts(data["second_rank"]),
        ],
    }


def number(pair):
    """A number of a verdict as the page has it."""
    value, half = pair
    if value is None:
        return "never"
    if isinstance(value, int) or (half is None and float(value).is_integer()):
        return f"{value:.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 2 else 3
    return f"{value:.{digits}f}" + ("" if half is None else f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{half:.{digits}f}")


def page(found):
    """The page as Markdown, from what `all_verdicts` gives."""
    runs, few = (sum(len(shipped(name)["runs"]) for name in names) for names in (ON_GPU, ON_CPU))
    elsewhere = shipped("family")["about"]["other_device"]["runs"]
    runs, few = runs - elsewhere, few + elsewhere
    dates = " and ".join(sorted({shipped(name)["about"]["date"] for name in ON_GPU}))
    data, device = shipped("second"), shipped("curves")["about"]["device"]
    exact = len(data["runs"]) - data["about"]["other_precision"]["runs"]
    text = HEAD.format(runs=runs, few=few, exact=exact, device=device, dates=dates)
    for verdicts in found.values():
        text += "".join(f"| {v.claim} | {v.verdict} |\n" for v in verdicts)
    for heading, verdicts in found.items():
        text += f"\n## {heading}\n{_second() if heading == SECOND_SCALE else INTRODUCTIONS.get(heading, '')}"
        for verdict in verdicts:
            text += _section(verdict)
        if heading == "The family":
            text += _table() + _sizes()
    return text + "\n" + FOOT


def _section(verdict):
    lines = "".join(f"| {name} | {number(pair)} |\n" for name, pair in verdict.numbers.items())
    counted = f"{verdict.seeds} seeds" if verdict.seeds else "counted"
    files = ", ".join(f"`{name}.json`" for name in verdict.data) or "`lora_np.costs.flops`"
    who = "Asked here" if verdict.said_by == "asked here" else f"Said by: {verdict.said_by}"
    return (
        f"\n### {verdict.claim[0].upper()}{verdict.claim[1:]}\n\n"
        f"{who}. **{verdict.verdict[0].upper()}{verdict.verdict[1:]}.** {verdict.seen}\n\n"
        f"| measured | |\n|---|---|\n{lines}\nRule: {verdict.rule}. {counted[0].upper()}{counted[1:]}; {files}.\n"
    )


def _second():
    data, bits = shipped("second"), second_bits.table(shipped("second_bits"))
    rows = "".join(
        f"| {kind} | {row['rate']:g}{'*' * row['edge']} | {row['prose']:.3f} | {row['part']:.0%} | {row['own']:.3f} |\n"
        for kind, row in second.table(data).items()
    )
    lines = "".join(
        f"| {method} | {row['rate']:g}{'*' * row['edge']} | {row['bytes'] / 1e6:.0f} MB | {row['before']:.3f} "
        f"| {row['after']:.3f} | {row['merged']:.3f} |\n"
        for method, row in bits.items()
    )
    counts = {"seeds": len({run["seed"] for run in data["runs"]}), "count": len(data["runs"])}
    tf32 = data["about"]["other_precision"]["runs"]
    rates = ", ".join(f"{rate:g}" for rate in second_bits.RATES)
    known = {"rows": rows, "bits": lines, "tf32": tf32, "rates": rates, "question": second.QUESTION}
    return SECOND.format(**known, **counts, **_rank())


def _rank():
    found = second_rank.table(shipped("second_rank"))
    left = zip(("as in the base", "as trained"), zip(*found["cut"].values(), strict=True), strict=True)
    lines = (f"| {where} | {' | '.join(f'{part:.0%}' for part in parts)} |\n" for where, parts in left)
    names = {"update": "ΔW", "weight": "W", "random": "random numbers"}
    spectra = (f"| {names[name]} | {s:.0%} | {h:.0f} | {n:.0f} |\n" for name, (s, h, n) in found["energy"].items())
    cuts = " | ".join("all" if k == "all" else f"k = {k}" for k in found["cut"])
    text = {"cuts": cuts, "bars": "|".join(["---"] * len(found["cut"])), "cut": "".join(lines)}
    return {**text, "energy": "".join(spectra)}


def _table():
    rows = fair_fight.table(shipped("family"), shipped("times"))
    lines = [
        f"| {row['method']} | {row['rate']:g} | {number(row['prose'])} | {number(row['source'])} "
        f"| {row['trainable']:,} | {row['bytes'] / 1000:.0f} | {row['milliseconds']:.1f} |"
        for row in rows
    ]
    head = "| method | best rate | loss on prose | forgotten | trained | kB | ms |"
    return (
        "\nAll of them, the best first. The kB are those of the trained numbers in float32, the ms those of one "
        "step of this library with nothing else on the GPU. "
        f"{FRONT}: {', '.join(fair_fight.front(rows))}.\n\n{head}\n" + "|---" * 7 + "|\n" + "\n".join(lines) + "\n"
    )


def _sizes():
    family, ranks = shipped("family"), sorted(fair_fight.SIZES)
    runs = {**family, "runs": [run for run in family["runs"] if run["method"] in IN_ALL_SIZES]}
    tables = {rank: {row["method"]: row for row in fair_fight.table(runs, size=rank)} for rank in ranks}
    lines = ""
    for method in tables[ranks[0]]:
        own = [tables[rank][method] for rank in ranks]
        more = fair_fight.at_as_many(family, method)
        cells = [f"{number(row['prose'])} ({np.mean(more[rank]):+.3f})" for rank, row in zip(ranks, own, strict=True)]
        lines += f"| {method} | {' | '.join(cells)} | {', '.join(format(row['trainable'], ',') for row in own)} |\n"
    fronts = "; ".join(f"at rank {rank} {', '.join(fair_fight.front(list(tables[rank].values())))}" for rank in ranks)
    return (
        "\nTwelve at three sizes, the best at rank 1 first: the loss on prose, and in brackets how far it is above "
        "that of LoRA with as many parameters. LoRA's losses lie on lines between its ranks, over the logarithm of "
        "their parameters; where the true curve sags below its lines, that is to the relative's favour, and where a "
        "line is drawn on beyond LoRA's ranks, to its disfavour. "
        f"{FRONT}, of the twelve: {fronts}.\n\n"
        f"| method | {' | '.join(f'rank {rank}' for rank in ranks)} | trained |\n|---|---|---|---|---|\n{lines}"
    )


def main():
    """Write the page."""
    with replacing(PAGE) as temporary:
        temporary.write_text(page(all_verdicts()), encoding="utf-8")


if __name__ == "__main__":
    main()
