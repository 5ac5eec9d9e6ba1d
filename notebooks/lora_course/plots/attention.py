"""Pictures of attention: for every position of a text, how much of its attention each earlier position gets."""

import numpy as np

from lora_np.plots import HEAT, new_figure

LABELLED = 60  # the most positions whose characters are written beside a map
SHOWN_AS = {" ": "·", "\n": "↵", "\t": "→"}  # a reader should see them too


def attention_maps(maps, text="", title="", columns=4):
    """A figure with one panel for each of `maps`, {name: weights (T, T)}: row = query, column = key.

    Each row adds up to 1. The colour goes with the square root of the weight, so that faint ones show. What is white
    has weight 0: it is hidden by the mask. `text`, of T characters, is written along the axes of a single map if it has
    at most 60 of them; otherwise the axes count positions. ValueError if `text` is of another length than the maps.
    """
    for name, weights in maps.items():
        if text and np.shape(weights) != (len(text), len(text)):
            raise ValueError(f"map {name!r} is {np.shape(weights)}, the text has {len(text)} characters")
    columns = min(columns, len(maps))
    width, height = (7.5, 6.7) if len(maps) == 1 else (9 / columns, 9 / columns)
    figure, axes = new_figure(columns, -(-len(maps) // columns), width, height)
    for ax, (name, weights) in zip(axes, maps.items(), strict=False):
        image = _draw(ax, np.asarray(weights), name)
    for ax in axes[len(maps) :]:
        ax.set_axis_off()
    if text and len(maps) == 1 and len(text) <= LABELLED:
        _label(axes[0], text)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "0.05", "0.25", "0.5", "1"])
    bar.set_label("share of the attention")
    figure.suptitle(title)
    figure.supxlabel("position looked at (key)")
    figure.supylabel("position that looks (query)")
    return figure


def _draw(ax, weights, name):
    """One map; returns the image that the colour bar is for."""
    from matplotlib.colors import PowerNorm

    seen = np.ma.masked_where(weights == 0, weights)
    ax.set_title(name)
    ax.grid(False)
    return ax.imshow(seen, cmap=HEAT, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")


def _label(ax, text):
    """The characters themselves along both axes."""
    signs = [SHOWN_AS.get(sign, sign) for sign in text]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(range(len(signs)), signs, family="monospace", fontsize=9)
    ax.tick_params(length=0)
