"""Bar charts of parts: one bar for each part, or one bar for each case with its parts stacked."""

from lora_np.plots import CYCLE, GREY, new_figure

HATCHES = ("", "//", "..", "xx", "\\\\", "++")  # beside the colour, so that parts differ in grey too


def part_bars(parts, title, unit):
    """A figure with one horizontal bar for each of `parts`, {name: number}, first on top, each with its number."""
    figure, (ax,) = new_figure(width=7.5, height=1.2 + 0.42 * len(parts))
    bars = ax.barh(list(parts), list(parts.values()), color=CYCLE[0], height=0.65)
    ax.bar_label(bars, [number(value) for value in parts.values()], padding=4)
    _finish(ax, title, unit)
    return figure


def stacked_bars(cases, title, unit):
    """A figure with one horizontal bar for each of `cases`, {name: {part: number}}, made of its parts.

    A part that a case does not have counts as 0. Beside each bar stands its total.
    """
    figure, (ax,) = new_figure(width=8.5, height=1.9 + 0.5 * len(cases))
    left = dict.fromkeys(cases, 0.0)
    names = list(dict.fromkeys(part for parts in cases.values() for part in parts))
    if len(names) > len(CYCLE):
        raise ValueError(f"{len(names)} parts, more than the {len(CYCLE)} colours that can be told apart")
    for part, colour, hatch in zip(names, CYCLE, HATCHES, strict=False):
        lengths = [parts.get(part, 0) for parts in cases.values()]
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        bars = ax.barh(list(cases), lengths, left=list(left.values()), height=0.65, label=part, **style)
        left = {case: left[case] + length for case, length in zip(cases, lengths, strict=True)}
    ax.bar_label(bars, [number(total) for total in left.values()], padding=4)
    _finish(ax, title, unit)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(names)), frameon=False)
    return figure


def number(value):
    """A number as it stands beside a bar: whole ones in full, others with three significant digits."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _finish(ax, title, unit):
    from matplotlib.ticker import MaxNLocator

    ax.set(title=title, xlabel=unit)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.18)  # room for the numbers
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter("{x:,.10g}")
    ax.axvline(0, color=GREY, linewidth=0.8)
