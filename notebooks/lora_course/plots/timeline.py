"""Pictures of one training step: what ran when, and how the time divides among the parts."""

from lora_np.plots import BLACK, BLUE, CYCLE, GREEN, GREY, ORANGE, new_figure

MOST_LANES = 4  # threads drawn; of more, the first


def step_timeline(timelines, parts):
    """A panel for each step: its operations as bars from beginning to end, a row for each thread.

    timelines  {title: step}, where step.spans are (part, phase, start, end, lane), phase "forward", "backward" or
               "step", times in milliseconds, and step.milliseconds is the length of the whole
    parts      names of the parts, in the order of their colours
    """
    heights = [1.7 + 0.3 * _lanes_drawn(step) for step in timelines.values()]
    figure, axes = new_figure(rows=len(timelines), width=9.5, height=0.2 + sum(heights) / len(heights))
    axes[0].get_gridspec().set_height_ratios(heights)
    colours = _colours(parts)
    for ax, (title, step) in zip(axes, timelines.items(), strict=True):
        _draw_step(ax, step, colours)
        ax.set(title=title, xlabel="milliseconds since the step began")
    _legend(figure, axes[0], colours)
    return figure


def _draw_step(ax, step, colours):
    lanes = _lanes_drawn(step)
    for part, colour in colours.items():
        for lane in range(lanes):
            spans = [span for span in step.spans if span[0] == part and span[4] == lane]
            bars = [(start, end - start) for _, _, start, end, _ in spans]
            ax.broken_barh(bars, (lane - 0.4, 0.8), facecolors=colour, edgecolor="none")
    _mark_phases(ax, step, lanes)
    named = range(lanes if lanes > 1 else 0)
    ax.set_yticks(named, [f"thread {lane + 1}" for lane in named])
    ax.set(ylim=(lanes - 0.4, -1.1), xlim=(0, step.milliseconds))
    ax.grid(axis="y", visible=False)
    more = step.lanes - lanes
    if more:
        ax.annotate(f"and {more} more threads", (1, 0), xycoords="axes fraction", ha="right", va="bottom", color=GREY)


def _mark_phases(ax, step, lanes):
    """A line where the backward pass begins, and where the optimizer does; their names above."""
    names = {"forward": "forward", "backward": "backward", "step": "optimizer"}
    for phase, name in names.items():
        starts = [span[2] for span in step.spans if span[1] == phase]
        if not starts:
            continue
        start = 0.0 if phase == "forward" else min(starts)
        ax.vlines(start, -1.0, lanes - 0.4, colors=BLACK, linewidth=0.8, linestyles=":")
        late = phase == "step"
        place = {"xytext": (-3 if late else 3, 0), "textcoords": "offset points", "ha": "right" if late else "left"}
        ax.annotate(name, (start, -0.75), va="center", fontsize=9, color=BLACK, **place)


def part_shares(steps, title="Where the time of a training step goes"):
    """Stacked bars of 100%: `steps` is {label: {part: milliseconds}}; the whole step's time stands at the end."""
    figure, (ax,) = new_figure(width=9.5, height=1.6 + 0.5 * len(steps))
    colours = _colours(list(dict.fromkeys(part for step in steps.values() for part in step)))
    totals = [sum(step.values()) for step in steps.values()]
    rows, left = range(len(steps)), [0.0] * len(steps)
    for part, colour in colours.items():
        shares = [100 * step.get(part, 0.0) / total for step, total in zip(steps.values(), totals, strict=True)]
        bars = ax.barh(rows, shares, left=left, height=0.7, color=colour, label=part)
        named = [f"{share:.0f}%" if share >= 5 else "" for share in shares]
        ax.bar_label(bars, named, label_type="center", fontsize=9, color=_readable_on(colour))
        left = [begin + share for begin, share in zip(left, shares, strict=True)]
    for row, total in enumerate(totals):
        ax.text(101, row, f"{total:,.0f} ms" if total >= 100 else f"{total:.3g} ms", va="center", fontsize=9)
    ax.set_yticks(range(len(steps)), list(steps))
    ax.set(title=title, xlabel="share of the step (%)", xlim=(0, 112), ylim=(len(steps) - 0.5, -0.5))
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="y", visible=False)
    _legend(figure, ax, colours)
    return figure


def _lanes_drawn(step):
    return min(step.lanes, MOST_LANES)


def _colours(parts):
    """{part: colour}; what comes after the last colour is grey."""
    return {part: CYCLE[i] if i < len(CYCLE) - 1 else GREY for i, part in enumerate(parts)}


def _readable_on(colour):
    """The colour of text on a bar."""
    return "white" if colour in (BLUE, ORANGE, GREEN) else BLACK


def _legend(figure, ax, colours):
    """One legend below all panels."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=part) for part, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
