"""Pictures of what LoRA costs: parameters, memory by part, rounding errors of merging, and latency."""

import numpy as np

from lora_np.plots import BLACK, BLUE, CYCLE, GREEN, GREY, MARKERS, ORANGE, SKY, YELLOW, new_figure

MEMORY_PARTS = {  # of `costs.memory.memory`, in the order of the bars: (colour, hatch)
    "weights": (GREY, ""),
    "adapters": (BLACK, ""),
    "gradients": (ORANGE, "//"),
    "optimizer": (YELLOW, "\\\\"),
    "activations": (SKY, ".."),
}
LIMITS = {"float64": 2**-53, "float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}  # unit roundoff


def parameter_counts(counts, title):
    """What is trained against the whole base model, on a logarithmic axis: how many times fewer are trained.

    counts: {label: (trained, parameters of the base model)}, from top to bottom.
    """
    figure, (ax,) = new_figure(width=9.0, height=1.3 + 0.5 * len(counts))
    places = np.arange(len(counts))[::-1]
    trained, total = np.array(list(counts.values()), dtype=float).T
    ax.hlines(places, trained, total, color=GREY, linewidth=2)
    ax.plot(trained, places, MARKERS[0], color=BLUE, markersize=8, label="trained")
    ax.plot(total, places, MARKERS[1], color=ORANGE, markersize=8, label="the base model")
    for place, few, many in zip(places, trained, total, strict=True):
        between = (few * many) ** 0.5
        ax.text(between, place + 0.1, f"{many / few:,.0f} times", ha="center", va="bottom", color=BLACK)
    ax.set_xscale("log")
    ax.set_yticks(places, list(counts))
    ax.set(title=title, xlabel="parameters (logarithmic)", ylim=(-0.6, len(counts) - 0.2))
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    return figure


def memory_bars(memory, title, unit=10**9, unit_name="GB"):
    """One bar for each method, its parts end to end and the total behind it.

    memory: {label: what `costs.memory.memory` returns, in bytes}, from top to bottom. Parts that are zero in all
    methods are left out.
    """
    figure, (ax,) = new_figure(width=9.0, height=1.6 + 0.5 * len(memory))
    places, left = np.arange(len(memory))[::-1], np.zeros(len(memory))
    ax.set_axisbelow(True)
    for part, (colour, hatch) in MEMORY_PARTS.items():
        widths = np.array([parts[part] for parts in memory.values()]) / unit
        if widths.any():
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            ax.barh(places, widths, left=left, height=0.6, label=part, **look)
            left = left + widths
    for place, total in zip(places, left, strict=True):
        ax.text(total, place, f"  {total:,.1f} {unit_name}", va="center")
    ax.set_yticks(places, list(memory))
    ax.set(title=title, xlabel=f"memory ({unit_name})", xlim=(0, 1.15 * left.max()))
    ax.grid(axis="y", visible=False)
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(MEMORY_PARTS))
    return figure


def merge_errors(ranks, errors, title, ylabel="relative error of the layer's result"):
    """The error that rounding the merged weight leaves, against the rank, one line for each dtype.

    errors: {dtype's name: [relative error at each of `ranks`]}. A dotted line is the dtype's unit roundoff, the largest
    relative error of rounding one number.
    """
    figure, (ax,) = new_figure(width=8.0, height=4.2)
    for (name, values), colour, marker in zip(errors.items(), CYCLE, MARKERS, strict=False):
        ax.plot(ranks, values, color=colour, marker=marker, label=name)
        if name in LIMITS:
            ax.axhline(LIMITS[name], color=colour, linestyle=":", linewidth=1.2)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(ranks, [str(r) for r in ranks])
    ax.minorticks_off()
    ax.set(title=title, xlabel="rank r", ylabel=ylabel)
    ax.plot([], [], color=GREY, linestyle=":", label="unit roundoff")
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside right upper")
    return figure


def update_errors(shares, errors, title):
    """What is lost of an update when the sum W + ΔW is rounded, against the update's size: a line for each dtype.

    shares: sizes of the update as parts of W's, largest first; errors: {dtype's name: [error at each share]}, as parts
    of the update. A line at 1 marks where nothing of the update arrives.
    """
    figure, (ax,) = new_figure(width=8.0, height=4.0)
    for (name, values), colour, marker in zip(errors.items(), CYCLE, MARKERS, strict=False):
        ax.plot(shares, values, color=colour, marker=marker, label=name)
    ax.axhline(1, color=GREY, linestyle="--", linewidth=1.2, label="all of it lost")
    ax.set(xscale="log", yscale="log", title=title, xlabel="size of the update, as a part of W")
    ax.set(ylabel="error, as a part of the update")
    ax.invert_xaxis()
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside right upper")
    return figure


def time_ratios(ratios, title, xlabel="time, as a multiple of the base model's"):
    """Every measured ratio as a point, the median as a bar across them, and a line at 1.

    ratios: {label: array of ratios}, from top to bottom. A round in which something else kept the machine busy may
    lie far out: beyond twice the largest median it is drawn at the edge, so that the others can be told apart.
    """
    figure, (ax,) = new_figure(width=9.0, height=1.3 + 0.55 * len(ratios))
    places = np.arange(len(ratios))[::-1]
    rng, edge = np.random.default_rng(0), 2 * max(np.median(values) for values in ratios.values())
    beyond = 0
    for place, values in zip(places, ratios.values(), strict=True):
        values = np.asarray(values)
        heights, far = place + rng.uniform(-0.18, 0.18, len(values)), values > edge
        ax.plot(values[~far], heights[~far], "o", color=BLUE, alpha=0.45, markersize=4)
        if far.any():
            ax.plot(np.full(far.sum(), edge), heights[far], ">", color=BLUE, markersize=7, clip_on=False)
            beyond += far.sum()
        ax.plot([np.median(values)] * 2, [place - 0.32, place + 0.32], color=ORANGE, linewidth=3)
    ax.axvline(1.0, color=BLACK, linewidth=1, linestyle="--")
    ax.plot([], [], "o", color=BLUE, alpha=0.45, markersize=4, label="one round")
    ax.plot([], [], color=ORANGE, linewidth=3, label="median")
    if beyond:
        ax.plot([], [], ">", color=BLUE, markersize=7, label=f"beyond the edge ({beyond})")
        ax.set_xlim(right=edge)
    ax.set_yticks(places, list(ratios))
    ax.set(title=title, xlabel=xlabel, ylim=(-0.6, len(ratios) - 0.4))
    figure.legend(*ax.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    return figure


def distance_bars(distances, title, xlabel):
    """Horizontal bars of one number each, with the number behind it; exact ones (below 1e-5) in another colour.

    distances: {label: number of at least 0}, from top to bottom.
    """
    figure, (ax,) = new_figure(width=9.0, height=1.2 + 0.42 * len(distances))
    places, values = np.arange(len(distances))[::-1], np.array(list(distances.values()))
    colours = [GREEN if value < 1e-5 else BLUE for value in values]
    ax.set_axisbelow(True)
    ax.barh(places, values, height=0.6, color=colours)
    for place, value in zip(places, values, strict=True):
        text = f"{value:.1e}" if value < 1e-3 else f"{value:.3f}"
        ax.text(value, place, f"  {text}", va="center")
    ax.set_yticks(places, list(distances))
    ax.set(title=title, xlabel=xlabel, xlim=(0, 1.18 * max(values.max(), 1e-12)))
    ax.grid(axis="y", visible=False)
    return figure
