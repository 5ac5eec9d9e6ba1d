"""The page of the book: every verdict, with its numbers. `python -m lora_course.verdicts.page` writes it."""

from pathlib import Path

from lora_np.storage import replacing

from ..sweep import shipped as swept
from . import fair_fight, forgetting, four_bits, intruders, regret, scaling, starts
from .data import shipped

PAGE = Path(__file__).parents[2] / "book" / "verdicts.md"
NAMES = ("curves", "placement", "batch", "starts", "scaling", "protected", "family", "times", "four_bits")
HEAD = """# Verdicts: what LoRA really does, measured in small

Claims of the field, tried on the small model of this book: 858,880 parameters, 128 wide, taught Python source first,
English prose then. {runs} runs on an {device}, {date}, with products in TF32, and the 600 of notebook 06; those in
4 bits, {few}, ran on a CPU. All are on the same text. Losses are in nats per byte.

Read them for what they are. **A verdict is about this model and this task**: a model three or four orders of magnitude
smaller than those the claims were made about, and runs of 40 to 640 steps. What holds here may not hold there, nor the
other way round. Every method has a search of its own for the rate, chosen on validation text; the numbers are of test
text. "±" is half the 95% interval over seeds, by Student's t; where there is none, the number is one of means.

The rule that decides stands beside each verdict. Most rules were written before the runs. Those of the scaling runs and
four others were changed when results were there: the tenfold rate is asked at two values of alpha, intruders are made
smaller to 0.75 rather than to half, decay and replay are compared at one rate, and replay need not halve what is
forgotten.

The data sets are in `lora_course/verdicts`, one JSON file each, with the command that makes it. The notebook
[13_open_questions](13_open_questions.ipynb) shows the pictures and makes some of the runs again. A test recomputes
every number below from the files with plain NumPy.

| claim | verdict |
|---|---|
"""
FOOT = """## What was not done

- **Capacity** in bits per parameter, **learning from reward** with one rank and a **speedrun** have no runs
  here yet. Nor has anything on this page a second scale: SmolLM2-135M is missing everywhere, and 4 bits are tried on
  the small model, with runs of 60 steps and 4 rows; QA-LoRA's best rate there is the lowest that was tried.
- The relatives were compared at one size, and with three seeds. AdaLoRA, VB-LoRA, TinyLoRA, RandLoRA, HRA, IA3 and
  FourierFT are not among them.
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
    }


def number(pair):
    """A number of a verdict as the page has it."""
    value, half = pair
    if value is None:
        return "never"
    if isinstance(value, int) or (half is None and float(value).is_integer()):
        return f"{value:.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 2 else 3
    return f"{value:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def page(found):
    """The page as Markdown, from what `all_verdicts` gives."""
    about = shipped("curves")["about"]
    counts = {name: len(shipped(name)["runs"]) for name in NAMES}
    few = counts.pop("four_bits")
    text = HEAD.format(runs=sum(counts.values()), few=few, device=about["device"], date=about["date"])
    for verdicts in found.values():
        text += "".join(f"| {v.claim} | {v.verdict} |\n" for v in verdicts)
    for heading, verdicts in found.items():
        text += f"\n## {heading}\n"
        for verdict in verdicts:
            text += _section(verdict)
        if heading == "The family":
            text += _table()
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


def _table():
    rows = fair_fight.table(shipped("family"), shipped("times"))
    lines = [
        f"| {row['method']} | {row['rate']:g} | {number(row['prose'])} | {row['percent']:+.1f}% "
        f"| {number(row['source'])} | {row['trainable']:,} | {row['bytes'] / 1000:.0f} kB | {row['milliseconds']:.1f} |"
        for row in rows
    ]
    head = "| method | best rate | loss on prose | against LoRA | forgotten | trained | file | ms a step |"
    return (
        f"\nAll of them, the best first. The time is of one step with nothing else on the GPU.\n\n{head}\n"
        + "|---" * 8
        + "|\n"
        + "\n".join(lines)
        + "\n"
    )


def main():
    """Write the page."""
    with replacing(PAGE) as temporary:
        temporary.write_text(page(all_verdicts()), encoding="utf-8")


if __name__ == "__main__":
    main()
