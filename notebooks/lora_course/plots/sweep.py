"""Pictures of a sweep: loss by rank, by size, by learning rate, and against what was forgotten.

Spreads are (mean, deviation) pairs. A point is a dict with "rank", "trainable", and "prose" and "source" as such pairs,
as `lora_course.sweep.tuned` returns it; groups of points are given as {label: [point]}. "full training" and "head only"
are labels with a look of their own.
"""

import numpy as np

from lora_np.plots import BLACK, CYCLE, GREY, HEAT, MARKERS, new_figure

UNIT = "nats per byte"
REFERENCES = {"full training": (BLACK, "X", "--"), "head only": (GREY, "h", ":")}  # label: colour, marker, line


def rank_curves(panels, levels=None):
    """Loss by rank with a band of ± one deviation: a panel for each {title: {label: {rank: (mean, deviation)}}}.

    levels: {label: (mean, deviation)}, drawn as horizontal lines in every panel. The panels share one scale.
    """
    figure, axes = new_figure(columns=len(panels), width=5.6, height=4.2)
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, (mean, deviation) in (levels or {}).items():
            colour, _, line = REFERENCES[label]
            ax.axhline(mean, color=colour, linestyle=line, label=label)
            ax.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.12, linewidth=0)
        for (label, curve), colour, marker in zip(curves.items(), CYCLE, MARKERS, strict=False):
            _band(ax, label, curve, colour, marker)
        ax.set(title=title, xlabel="rank r", ylabel=f"loss on held-out prose ({UNIT})")
        _rank_ticks(ax, sorted({rank for curve in curves.values() for rank in curve}))
    _one_scale(axes)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3 * len(panels)), frameon=False)
    return figure


def _band(ax, label, curve, colour, marker):
    mean, deviation = np.array(list(curve.values())).T
    ax.plot(list(curve), mean, color=colour, marker=marker, label=label)
    ax.fill_between(list(curve), mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)


def _rank_ticks(ax, ranks):
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, [str(rank) for rank in ranks])
    ax.minorticks_off()


def _one_scale(axes):
    limits = [ax.get_ylim() for ax in axes]
    for ax in axes:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def front(groups, title):
    """Loss against the number of trained parameters; a ring around each point that no smaller one is as good as."""
    figure, (ax,) = new_figure(width=7.5, height=4.6)
    for label, points, (colour, marker) in _looks(groups):
        x, (mean, deviation) = [p["trainable"] for p in points], np.array([p["prose"] for p in points]).T
        ax.errorbar(x, mean, deviation, color=colour, marker=marker, linewidth=0.8, capsize=2, label=label)
    best = frontier([point for points in groups.values() for point in points])
    x, y = [p["trainable"] for p in best], [p["prose"][0] for p in best]
    ax.plot(x, y, "o", markersize=13, markerfacecolor="none", color=BLACK, label="none smaller is as good")
    ax.set(title=title, xlabel="trained parameters", ylabel=f"loss on held-out prose ({UNIT})", xscale="log")
    ax.legend(frameon=False)
    return figure


def frontier(points):
    """The points that have a lower mean loss than every point of fewer or as many trained parameters, by size."""
    best = []
    for point in sorted(points, key=lambda p: (p["trainable"], p["prose"][0])):
        if not best or point["prose"][0] < best[-1]["prose"][0]:
            best.append(point)
    return best


def forgetting(panels, base):
    """The rise of the loss on source against the fall on prose: a panel for each {title: {label: [point]}}.

    base: {"prose": loss, "source": loss} before training. Larger marks are of higher ranks.
    """
    figure, axes = new_figure(columns=len(panels), width=5.6, height=4.4)
    for ax, (title, groups) in zip(axes, panels.items(), strict=True):
        for label, points, (colour, marker) in _looks(groups):
            (x, across), (y, up) = (np.array([p[kind] for p in points]).T for kind in ("prose", "source"))
            x, y = base["prose"] - x, y - base["source"]
            ax.errorbar(x, y, up, across, color=colour, linewidth=0.7, alpha=0.7)
            sizes = [20 + 12 * np.log2(p["rank"] or 8) for p in points]
            ax.scatter(x, y, sizes, color=colour, marker=marker, label=label, zorder=3)
        ax.set(title=title, xlabel=f"learnt: fall on prose ({UNIT})", ylabel=f"forgotten: rise on source ({UNIT})")
        ax.legend(frameon=False)
    return figure


def _looks(groups):
    """[(label, points, (colour, marker))]."""
    usual = iter(zip(CYCLE, MARKERS, strict=False))
    for label, points in groups.items():
        yield label, points, REFERENCES[label][:2] if label in REFERENCES else next(usual)


def rate_maps(grids, ceiling):
    """Maps of the loss by rank and learning rate, one below the other: {title: (ranks, rates, losses)}.

    losses (ranks, rates), nan where a run diverged. The lowest of each rank has a frame; what is above `ceiling`, such
    as the loss before training, is grey.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    figure, axes = new_figure(rows=len(grids), width=8.0, height=2.3)
    colours = colormaps[HEAT].with_extremes(over="lightgrey", bad="lightgrey")
    low = min(np.nanmin(losses) for _, _, losses in grids.values())
    for ax, (title, (ranks, rates, losses)) in zip(axes, grids.items(), strict=True):
        image = ax.imshow(losses.T, cmap=colours, vmin=low, vmax=ceiling, origin="lower", aspect="auto")
        for (i, j), loss in np.ndenumerate(losses):
            text = "-" if np.isnan(loss) else f"{loss:.3f}"
            ax.text(i, j, text, ha="center", va="center", color="white" if loss < (low + ceiling) / 2 else "black")
        for i in np.flatnonzero(~np.isnan(losses).all(axis=1)):
            corner = (i - 0.47, np.nanargmin(losses[i]) - 0.45)
            ax.add_patch(Rectangle(corner, 0.94, 0.9, fill=False, edgecolor="white", linewidth=2))
        ax.set_xticks(range(len(ranks)), ranks)
        ax.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        ax.set(title=title, xlabel="rank r", ylabel="learning rate")
        ax.grid(visible=False)
    figure.colorbar(image, ax=axes, label=f"loss on prose ({UNIT})", extend="max", pad=0.01)
    return figure


def at_rank(groups, rank, base):
    """What one rank gives for each label: the fall on prose and the rise on source, with deviations.

    base: {"prose": loss, "source": loss} before training. Full training stands beside, if it is among the groups.
    Both panels have one scale, the same at every rank.
    """
    chosen = {
        label: (point, look)
        for label, points, look in _looks(groups)
        for point in points
        if point["rank"] == rank or label == "full training"
    }
    figure, axes = new_figure(columns=2, width=5.0, height=2.8)
    titles = {"prose": f"Learnt at r = {rank}: fall on prose", "source": f"Forgotten at r = {rank}: rise on source"}
    every = [point for points in groups.values() for point in points]
    largest = max(abs(point[kind][0] - base[kind]) for point in every for kind in titles)
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        mean, deviation = np.array([point[kind] for point, _ in chosen.values()]).T
        colours = [colour for _, (colour, _) in chosen.values()]
        drawn = ax.barh(list(chosen), abs(mean - base[kind]), xerr=deviation, color=colours, height=0.6)
        ax.bar_label(drawn, fmt="%.3f", padding=4)
        ax.set(title=title, xlabel=UNIT, xlim=(0, 1.25 * largest))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    axes[1].tick_params(labelleft=False)
    return figure
