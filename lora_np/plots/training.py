"""Pictures of training: loss curves, and losses before and after."""

import itertools
from collections.abc import Mapping

from ..expect import wrong
from .style import CYCLE, GREY, MARKERS, new_figure


def training_curves(history, title, unit="nats per byte"):
    """A figure of one run: the training loss with the held-out losses at each evaluation, and before against after.

    history: what `train` returned. Of a run without an evaluation the curve alone. TypeError for something else.
    """
    losses, evaluations, names = _checked(history)
    figure, (curves, *bars) = new_figure(columns=2 if names else 1, width=5.2)
    steps = range(1, len(losses) + 1)
    single = {"marker": "."} if len(losses) == 1 else {}  # one point makes no line
    curves.plot(steps, losses, color=GREY, linewidth=0.8, label="training batches", **single)
    colours = dict(zip(names, itertools.cycle(CYCLE)))
    for (name, colour), marker in zip(colours.items(), itertools.cycle(MARKERS)):
        at = [e["step"] for e in evaluations]
        curves.plot(at, [e[name] for e in evaluations], color=colour, marker=marker, label=f"{name}, held out")
    curves.set(title=title, xlabel="optimizer step", ylabel=f"loss ({unit})")
    curves.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    for ax in bars:
        _before_and_after(ax, evaluations, colours, unit)
    return figure


def _before_and_after(ax, evaluations, colours, unit):
    """Bars of the first and the last evaluation of each data set {name: colour}."""
    for i, (name, colour) in enumerate(colours.items()):
        values = [evaluations[0][name], evaluations[-1][name]]
        drawn = ax.bar([i - 0.2, i + 0.2], values, width=0.36, color=[GREY, colour])
        ax.bar_label(drawn, fmt="%.3f", padding=2)
    ax.set_xticks(range(len(colours)), [f"{name}\nbase | with adapter" for name in colours])
    ax.set(title="Held-out loss before and after", ylabel=f"loss ({unit})")
    ax.grid(axis="x", visible=False)
    ax.set_axisbelow(True)
    ax.margins(y=0.12)


def _checked(history):
    """(losses, evaluations, names of what was measured in each) of a history."""
    if not isinstance(history, Mapping) or "loss" not in history:
        raise TypeError(wrong(history, "training_curves(history, title): history", "what train(...) returned"))
    evaluations = history.get("evaluation") or []
    first = evaluations[0] if evaluations else {}
    names = [name for name in first if name != "step" and all(name in found for found in evaluations)]
    return list(history["loss"]), evaluations, names
