"""Pictures of training: loss curves, and losses before and after."""

import itertools
from collections.abc import Mapping

from ..expect import wrong
from .style import CYCLE, GREY, MARKERS, new_figure


def training_curves(history, title, unit="nats per byte"):
    """A figure of one run: the training loss with the held-out losses at each evaluation, and before against after.

    history: what `train` returned. Of a run without an evaluation the curve alone. What `compute_metrics` measured is
    no loss: it has a panel for each name, as for the accuracy of all data sets. TypeError for something else.
    """
    losses, evaluations, names = _checked(history)
    wholes = {name: _measured_on(name, names) for name in names}
    measured = {}  # {accuracy: {data set: its accuracy's name in the evaluations}}
    for name, whole in wholes.items():
        if whole is not None:
            measured.setdefault(name.removeprefix(f"{whole}_"), {})[whole] = name
    names = [name for name, whole in wholes.items() if whole is None]
    figure, (curves, *others) = new_figure(columns=1 + bool(names) + len(measured), width=5.2)
    steps = range(1, len(losses) + 1)
    single = {"marker": "."} if len(losses) == 1 else {}  # one point makes no line
    curves.plot(steps, losses, color=GREY, linewidth=0.8, label="training batches", **single)
    colours = dict(zip(names, itertools.cycle(CYCLE)))
    _held_out(curves, evaluations, {name: name for name in names}, colours)
    curves.set(title=title, ylabel=f"loss ({unit})")
    for ax in others[:1]:
        _before_and_after(ax, evaluations, colours, unit)
    for ax, (what, named) in zip(others[1:], measured.items(), strict=True):
        _held_out(ax, evaluations, named, colours)
        ax.set(title=f"Held-out {what}", ylabel=what)
    for ax in (curves, *others[1:]):
        ax.set_xlabel("optimizer step")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure


def _held_out(ax, evaluations, names, colours):
    """A curve of {data set: what was measured on it, by its name in the evaluations}."""
    for marker, (whole, colour) in zip(itertools.cycle(MARKERS), colours.items()):
        if whole in names:
            at, values = [e["step"] for e in evaluations], [e[names[whole]] for e in evaluations]
            ax.plot(at, values, color=colour, marker=marker, label=f"{whole}, held out")


def _measured_on(name, names):
    """The data set on which this was measured besides the loss, as eval_accuracy on eval; None for a loss."""
    return min((whole for whole in names if name.startswith(f"{whole}_")), key=len, default=None)


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
