"""Pictures of what an update is made of: singular values, shared directions, and what is left of it at low rank."""

import numpy as np

from lora_np.plots import BLACK, CYCLE, GREY, MARKERS, new_figure

from .bars import HATCHES

ALIKE = "Blues"  # white where nothing is shared: most of a map of φ is near 0
SMALLEST = 1e-3  # of the largest singular value: what is below is not drawn


def spectra(matrices, title):
    """Two panels: singular values over the largest one, and the share of the energy ‖·‖²_F that the first k hold.

    matrices: {label: singular values, largest first}, or {label: a list of them}, drawn as the mean of their curves.
    ValueError if the spectra of one label differ in length.
    """
    figure, (values, energy) = new_figure(columns=2)
    styles = zip(CYCLE, ("-", "--", "-.", ":"), strict=False)
    for (label, found), (colour, style) in zip(matrices.items(), styles, strict=False):
        rows = np.atleast_2d(_same_length(label, found))
        k = np.arange(1, rows.shape[1] + 1)
        for ax, curves in ((values, rows / rows[:, :1]), (energy, 100 * energy_share(rows))):
            ax.plot(k, curves.mean(axis=0), color=colour, linestyle=style, linewidth=2, label=label)
    values.set(title=title, xlabel="number of the singular value", ylabel="over the largest one")
    values.set(yscale="log", ylim=(SMALLEST, 1.3))
    energy.set(title="Energy in the first k directions", xlabel="k", ylabel="share of the squared norm (%)")
    energy.set(ylim=(0, 103), xscale="log")
    energy.legend(frameon=False, loc="lower right")
    _plain_ticks(energy, rows.shape[1])
    return figure


def energy_share(singular_values):
    """σ (..., n) -> the share of Σσ² that the first k of them hold, for k = 1 to n: from 0 to 1, the last one 1."""
    squares = np.square(np.asarray(singular_values, dtype=float))
    return squares.cumsum(axis=-1) / squares.sum(axis=-1, keepdims=True)


def _same_length(label, found):
    if np.ndim(found[0]) and len({len(values) for values in found}) > 1:
        raise ValueError(f"the spectra of {label!r} differ in length: draw them under labels of their own")
    return np.asarray(found, dtype=float)


def phi_maps(maps, title, names=("i", "j"), most=None):
    """Heat maps of φ(i, j), as `analysis.similarity_map` gives them, side by side with one scale.

    maps   {label: array with φ(i, j) at [i - 1, j - 1]}: put the random control among them
    names  of the axes: what i and j count
    most   the top of the scale; by default the largest value of all, so that small differences are seen
    """
    arrays = [np.asarray(found, dtype=float) for found in maps.values()]
    most = max(found.max() for found in arrays) if most is None else most
    figure, axes = new_figure(columns=len(maps), width=3.6, height=3.6)
    for ax, label, found in zip(axes, maps, arrays, strict=True):
        rows, columns = found.shape
        drawn = ax.imshow(
            found, cmap=ALIKE, vmin=0, vmax=most, aspect="auto", extent=(0.5, columns + 0.5, rows + 0.5, 0.5)
        )
        ax.grid(visible=False)
        ax.locator_params(integer=True)  # i and j are numbers of directions
        ax.spines[["top", "right"]].set_visible(True)
        ax.set(title=label, xlabel=names[1])
    axes[0].set_ylabel(names[0])
    figure.colorbar(drawn, ax=axes, label="φ: 0 apart, 1 the one within the other", shrink=0.9)
    figure.suptitle(title)
    return figure


def loss_by_rank(curves, points, levels, title, unit="nats per byte"):
    """Loss against the number of directions kept: lines for truncated updates, points for what was trained so.

    curves  {label: (ranks, losses)}, drawn as lines with markers
    points  {label: (ranks, losses)}, drawn as large hollow markers: what lies beneath stays in sight
    levels  {label: loss}, drawn as horizontal lines: what does not depend on the rank
    """
    figure, (ax,) = new_figure(width=8.0, height=4.8)
    colours, markers = iter(CYCLE), iter(MARKERS)
    for label, (ranks, losses) in curves.items():
        ax.plot(ranks, losses, color=next(colours), marker=next(markers), label=label)
    for label, (ranks, losses) in points.items():
        style = {"facecolor": "none", "edgecolor": next(colours), "marker": next(markers), "linewidth": 2}
        ax.scatter(ranks, losses, s=150, zorder=3, label=label, **style)
    for (label, loss), colour, style in zip(levels.items(), (GREY, BLACK), ("--", ":"), strict=False):
        ax.axhline(loss, color=colour, linestyle=style, label=label)
    ax.set(title=title, xlabel="rank k", ylabel=f"loss ({unit})", xscale="log")
    _plain_ticks(ax, max(max(ranks) for ranks, _ in curves.values()))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _plain_ticks(ax, most):
    """Powers of two on a logarithmic x axis, written as they are."""
    ticks = [2**i for i in range(int(np.log2(most)) + 1)]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()


def norm_bars(groups, title, ylabel):
    """Bars in groups, each with its number: {label of a group: {label of a bar: number}}, all with the same bars."""
    figure, (ax,) = new_figure(width=8.0, height=4.2)
    bars = list(next(iter(groups.values())))
    width = 0.8 / len(bars)
    for number, (bar, colour, hatch) in enumerate(zip(bars, CYCLE, HATCHES, strict=False)):
        at = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * width
        heights = [group[bar] for group in groups.values()]
        drawn = ax.bar(at, heights, width=0.92 * width, color=colour, hatch=hatch, edgecolor="white", label=bar)
        ax.bar_label(drawn, fmt="%.2f", padding=2)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set(title=title, ylabel=ylabel)
    ax.grid(axis="x", visible=False)
    ax.margins(y=0.1)
    figure.legend(loc="outside lower center", ncols=len(bars), frameon=False)
    return figure
