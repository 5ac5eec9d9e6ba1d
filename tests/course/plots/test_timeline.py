"""Time lines: that bars stand where the operations were, and shares add up."""

from collections import namedtuple

import pytest
from matplotlib.colors import to_hex

from lora_course.plots.timeline import MOST_LANES, part_shares, step_timeline
from lora_np.plots import BLUE, ORANGE
from lora_np.plots.describe import description

Step = namedtuple("Step", "spans milliseconds lanes")
SPANS = [
    ("products", "forward", 0.0, 2.0, 0),
    ("products", "forward", 1.0, 3.0, 1),
    ("other", "backward", 3.0, 7.0, 0),
    ("other", "step", 8.0, 9.0, 0),
]


def bars(ax):
    """[(colour, start, length, lane)] of what is drawn."""
    found = []
    for collection in ax.collections:
        for path in collection.get_paths():
            box = path.get_extents()
            if box.height == pytest.approx(0.8):
                colour = to_hex(collection.get_facecolor()[0]).upper()
                found.append((colour, box.x0, box.width, round(box.y0 + 0.4)))
    return sorted(found, key=lambda bar: (bar[3], bar[1]))


def test_bars_stand_where_the_operations_were():
    (ax,) = step_timeline({"A step": Step(SPANS, 10.0, 2)}, ["products", "other"]).axes
    assert bars(ax) == [
        (BLUE, 0.0, 2.0, 0),
        (ORANGE, 3.0, 4.0, 0),
        (ORANGE, 8.0, 1.0, 0),
        (BLUE, 1.0, 2.0, 1),
    ]
    assert ax.get_title() == "A step"
    assert "milliseconds" in ax.get_xlabel()
    assert ax.get_xlim() == (0, 10)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["thread 1", "thread 2"]


def test_phases_are_named_where_they_begin():
    (ax,) = step_timeline({"A step": Step(SPANS, 10.0, 2)}, ["products", "other"]).axes
    assert {text.get_text(): text.xy[0] for text in ax.texts} == {"forward": 0.0, "backward": 3.0, "optimizer": 8.0}


def test_of_many_threads_the_first_are_drawn():
    spans = [("products", "forward", 0.0, 1.0, lane) for lane in range(16)]
    ax = step_timeline({"many": Step(spans, 2.0, 16), "one": Step(SPANS[:1], 2.0, 1)}, ["products"]).axes[0]
    assert len(bars(ax)) == MOST_LANES
    assert "and 12 more threads" in [text.get_text() for text in ax.texts]


def test_shares_add_up_to_100():
    steps = {"first": {"products": 3.0, "other": 1.0}, "second": {"products": 1190.0, "other": 1190.0}}
    figure = part_shares(steps)
    (ax,) = figure.axes
    found = [(patch.get_x(), patch.get_width()) for patch in ax.patches]
    assert found == [(0, 75), (0, 50), (75, 25), (50, 50)]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["75%", "50%", "25%", "50%", "4 ms", "2,380 ms"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["products", "other"]


def test_the_alternative_text_names_the_parts():
    steps = {"first": {"products": 3.0, "other": 1.0}, "second": {"products": 1.0, "rest": 1.0}}
    told = description(part_shares(steps))
    assert "products (first: 75, second: 50); other (first: 25, second: 0); rest (first: 0, second: 50)" in told


def test_the_alternative_text_takes_no_bar_for_a_point():
    figure = step_timeline({"A step": Step(SPANS, 10.0, 2)}, ["products", "other"])
    assert description(figure) == "A step, milliseconds since the step began"
