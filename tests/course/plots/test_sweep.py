"""The sweep's pictures: that they show the numbers they are given."""

import math

import numpy as np
import pytest

from lora_course.plots.sweep import at_rank, forgetting, front, frontier, rank_curves, rate_maps
from lora_np.plots import save

BASE = {"prose": 2.0, "source": 1.0}


def point(rank, trainable, prose, source):
    return {"rank": rank, "trainable": trainable, "prose": (prose, 0.01), "source": (source, 0.02)}


GROUPS = {
    "MLP": [point(1, 100, 1.8, 1.1), point(8, 800, 1.5, 1.25)],
    "all linear": [point(1, 200, 1.9, 1.2), point(8, 1600, 1.4, 1.5)],
    "full training": [point(None, 5000, 1.375, 1.75)],
}


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_rank_curves_show_means_bands_and_levels():
    panels = {"one": {"MLP": {1: (1.8, 0.1), 8: (1.5, 0.2)}}, "two": {"MLP": {1: (1.7, 0.1), 8: (1.0, 0.2)}}}
    figure = rank_curves(panels, {"full training": (0.75, 0.05)})
    first, second = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in first.lines}
    assert lines["MLP"] == [[1, 1.8], [8, 1.5]]
    assert [y for _, y in lines["full training"]] == [0.75, 0.75]
    band = first.collections[0].get_paths()[0].vertices
    assert {(round(x), round(y, 6)) for x, y in band} == {(1, 1.7), (1, 1.9), (8, 1.3), (8, 1.7)}
    assert first.get_ylim() == second.get_ylim()
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["1", "8"]
    assert texts(figure.legends[0]) == ["full training", "MLP"]
    assert "nats per byte" in first.get_ylabel()


def test_the_front_rings_what_no_smaller_one_reaches():
    (ax,) = front(GROUPS, "A title").axes
    rings = next(line for line in ax.lines if line.get_label() == "none smaller is as good")
    assert rings.get_xydata().tolist() == [[100, 1.8], [800, 1.5], [1600, 1.4], [5000, 1.375]]
    assert ax.get_title() == "A title"
    assert ax.get_xscale() == "log"
    assert {"MLP", "all linear", "full training"} < set(texts(ax.get_legend()))


def test_of_equal_points_the_smaller_is_on_the_frontier():
    small, large, same_size = point(1, 10, 1.0, 1.0), point(2, 20, 1.0, 1.0), point(4, 10, 1.5, 1.0)
    assert frontier([large, same_size, small]) == [small]


def test_forgetting_is_drawn_from_the_base_on():
    figure = forgetting({"one": GROUPS, "two": {"MLP": GROUPS["MLP"]}}, BASE)
    marks = {c.get_label(): c for c in figure.axes[0].collections if not c.get_label().startswith("_")}
    np.testing.assert_allclose(marks["MLP"].get_offsets(), [[0.2, 0.1], [0.5, 0.25]])
    np.testing.assert_allclose(marks["full training"].get_offsets(), [[0.625, 0.75]])
    sizes = marks["MLP"].get_sizes()
    assert sizes[1] > sizes[0]
    assert texts(figure.axes[1].get_legend()) == ["MLP"]


def test_rate_maps_frame_the_lowest_and_say_where_runs_diverged():
    losses = np.array([[1.5, 1.25, 1.75], [1.5, math.nan, 1.0], [math.nan] * 3])
    figure = rate_maps({"a rule": ([1, 2, 4], [0.1, 0.2, 0.3], losses)}, ceiling=2.0)
    ax = figure.axes[0]
    frames = [(round(p.get_x() + 0.47), round(p.get_y() + 0.45)) for p in ax.patches]
    assert frames == [(0, 1), (1, 2)]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert (cells[0, 1], cells[1, 1], cells[1, 2]) == ("1.250", "-", "1.000")
    image = ax.images[0]
    assert image.get_clim() == (1.0, 2.0)
    np.testing.assert_array_equal(image.get_array().filled(math.nan), losses.T)  # a row for each rate
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.1", "0.2", "0.3"]


def test_at_one_rank_the_others_are_left_out():
    learnt, forgotten = at_rank(GROUPS, 8, BASE).axes
    assert [label.get_text() for label in learnt.get_yticklabels()] == ["MLP", "all linear", "full training"]
    assert [bar.get_width() for bar in learnt.patches] == pytest.approx([0.5, 0.6, 0.625])
    assert [bar.get_width() for bar in forgotten.patches] == pytest.approx([0.25, 0.5, 0.75])
    assert "r = 8" in learnt.get_title()
    assert forgotten.get_xlim() == learnt.get_xlim()  # so that what was learnt and what was forgotten compare
    others = at_rank(GROUPS, 1, BASE).axes[0]
    assert others.get_xlim() == learnt.get_xlim()  # so that the slider changes the bars and not the scale


@pytest.mark.parametrize(
    "figure",
    [
        lambda: rank_curves({"one": {"MLP": {1: (1.8, 0.1), 8: (1.5, 0.2)}}}),
        lambda: front(GROUPS, "A title"),
        lambda: forgetting({"one": GROUPS}, BASE),
        lambda: rate_maps({"a rule": ([1], [0.1], np.ones((1, 1)))}, ceiling=2.0),
        lambda: at_rank(GROUPS, 8, BASE),
    ],
)
def test_it_can_be_drawn(figure, tmp_path):
    save(figure(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 2000
