"""Pictures of the verdicts: intervals, curves, best rates, intruders, and what was forgotten for what was learnt.

Intervals are (mean, half width) pairs.
"""

import numpy as np

from lora_np.plots import BLACK, CYCLE, MARKERS, new_figure

FULL = "full"


def dots(panels, unit, zero=None):
    """A panel for each {title: {label: (mean, half width)}}: a dot with its interval for each label, from above.

    zero: where a line is drawn, or None. The panels have scales of their own. If all have the same labels, these stand
    once, on the left, and the panels are narrower.
    """
    names = [list(found) for found in panels.values()]
    shared = len(names) > 1 and all(other == names[0] for other in names)
    figure, axes = new_figure(len(names), width=3.2 if shared else 5.2, height=1.2 + 0.3 * max(map(len, names)))
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        means, halves = np.array(list(found.values()), dtype=float).T
        ax.errorbar(means, range(len(found)), xerr=np.nan_to_num(halves), fmt="o", color=CYCLE[0], capsize=3)
        if zero is not None:
            ax.axvline(zero, color=BLACK, linewidth=0.8)
        ax.set_yticks(range(len(found)), [""] * len(found) if shared and ax is not axes[0] else list(found))
        ax.invert_yaxis()
        ax.set(title=title, xlabel=unit)
    return figure


def over_steps(curves, title, unit="nats per byte"):
    """Loss by step, on a scale that doubles: {label: {step: loss}}."""
    figure, (ax,) = new_figure(width=7.5, height=4.2)
    for label, (colour, marker), found in _looks(curves):
        ax.plot(list(found), list(found.values()), color=colour, marker=marker, label=_name(label))
    ax.set(title=title, xlabel="step", ylabel=f"loss on held-out prose ({unit})", xscale="log")
    steps = sorted({step for found in curves.values() for step in found})
    ax.set_xticks(steps, [str(step) for step in steps])
    ax.minorticks_off()
    ax.legend(frameon=False)
    return figure


def rates_by_rank(panels):
    """The best rate by rank, both doubling: a panel for each {title: {label: {rank: rate}}}."""
    figure, axes = new_figure(columns=len(panels), width=3.8, height=3.6)
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for (label, found), colour, marker in zip(curves.items(), CYCLE, MARKERS, strict=False):
            ax.plot(list(found), list(found.values()), color=colour, marker=marker, label=label)
        ranks = sorted({rank for found in curves.values() for rank in found})
        ax.set(title=title, xlabel="rank r", xscale="log", yscale="log")
        ax.set_xticks(ranks, [str(rank) for rank in ranks])
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    marks = [mark * 10.0**power for power in range(-6, 1) for mark in (1, 2, 5)]
    marks = [mark for mark in marks if low <= mark <= high]
    for ax in axes:
        ax.set_ylim(low, high)
        ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
        ax.minorticks_off()
    axes[0].set_ylabel("best learning rate")
    axes[0].legend(frameon=False)
    return figure


def side_by_side(panels, xlabel, ylabel):
    """Lines in a panel for each {title: {label: {x: y}}}, all on one scale; a label has one look in all panels."""
    figure, axes = new_figure(columns=len(panels), width=5.2, height=3.8)
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, (colour, marker), found in _looks(curves):
            ax.plot(list(found), list(found.values()), color=colour, marker=marker, markersize=4, label=_name(label))
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)
    axes[0].legend(frameon=False)
    return figure


def scattered(groups, title, xlabel, ylabel):
    """Points of each group, {label: [(x, y)]}, x on a scale that doubles."""
    figure, (ax,) = new_figure(width=7.5, height=4.2)
    for label, (colour, marker), places in _looks(groups):
        ax.scatter(*np.array(places).T, s=14, color=colour, marker=marker, label=_name(label), alpha=0.7)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale="log")
    ax.legend(frameon=False)
    return figure


def fronts(found, title, unit="nats per byte"):
    """What was forgotten against what was learnt: {label: [(learnt, forgotten)]}, a line for each label."""
    figure, (ax,) = new_figure(width=7.5, height=4.4)
    for label, (colour, marker), places in _looks(found):
        ax.plot(*np.array(places).T, color=colour, marker=marker, markersize=4, label=_name(label))
    ax.set(title=title, xlabel=f"learnt: fall on prose ({unit})", ylabel=f"forgotten: rise on source ({unit})")
    ax.legend(frameon=False)
    return figure


def _name(label):
    return "full training" if label == FULL else label if isinstance(label, str) else f"rank {label}"


def _looks(groups):
    """[(label, (colour, marker), what is drawn)], full training in black."""
    usual = iter(zip(CYCLE, MARKERS, strict=False))
    for label, found in groups.items():
        yield label, ((BLACK, "X") if label == FULL else next(usual)), found
