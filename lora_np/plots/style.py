"""The one style of all pictures: quiet axes, colours that colour-blind readers can tell apart (Okabe and Ito)."""

from pathlib import Path

from ..extras import require
from ..storage import replacing
from .describe import description

BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
GREY, BLACK = "#999999", "#222222"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)  # in this order, each with its own marker
MARKERS = "osD^vP"
WIDEST, SHARP = 900, 2  # pixels of a page that a picture takes at most; stored pixels for each of them
HEAT = "cividis"  # for pictures of matrices: as clear in grey, and to colour-blind readers


def new_figure(columns=1, rows=1, width=6.0, height=3.8):
    """(figure, [axes]) with rows x columns panels in reading order, each `width` by `height` inches.

    MissingPackageError if matplotlib is not installed.
    """
    Figure = require("matplotlib.figure", "a picture", "plots").Figure  # no pyplot: nothing global, needs no screen
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, list(axes)


def save(figure, path):
    """Write the figure as a PNG, replaced in one step."""
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png")


def show(figure, alt=None):
    """Display the figure in a notebook, at the width of the page.

    alt: what it shows, for those who cannot see it; by default its `description`. MissingPackageError if IPython is
    not installed: outside a notebook, `save` it.
    """
    display = require("IPython.display", "showing a picture", "notebooks")
    width = min(WIDEST, round(figure.get_figwidth() * figure.dpi))
    picture = _png(figure, SHARP * width)  # drawn first: the ticks are then where they belong
    display.display(display.Image(picture, width=width, alt=description(figure) if alt is None else alt))


def _png(figure, pixels):
    """The figure as a PNG so many pixels wide, in 256 colours: a third of the bytes, and it looks the same."""
    import io

    Image = require("PIL.Image", "showing a picture", "plots")  # matplotlib's own package for pictures
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=pixels / figure.get_figwidth())
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return packed.getvalue()
