"""Pictures, in one style: titled, with units. Each function takes numbers and returns a matplotlib Figure.

A Figure is shown by a notebook as it stands; `save(figure, path)` writes it as a PNG. `style.py` has the colours and
the axes, `training.py` the curves of a run, `describe.py` says in words what a figure shows; the course draws its own
pictures in this style.
"""

from .describe import description
from .style import BLACK, BLUE, CYCLE, GREEN, GREY, HEAT, MARKERS, ORANGE, PURPLE, SKY, YELLOW, new_figure, save, show
from .training import training_curves

__all__ = [
    "BLACK",
    "BLUE",
    "CYCLE",
    "GREEN",
    "GREY",
    "HEAT",
    "MARKERS",
    "ORANGE",
    "PURPLE",
    "SKY",
    "YELLOW",
    "description",
    "new_figure",
    "save",
    "show",
    "training_curves",
]
