"""The verdicts' pictures: that they show the numbers they are given."""

import pytest

from lora_course.plots.verdicts import dots, fronts, over_steps, rates_by_rank, scattered, side_by_side
from lora_np.plots.describe import description


def test_dots_stand_in_order_with_their_intervals():
    figure = dots({"one": {"a": (1.0, 0.5), "b": (2.0, float("nan"))}, "two": {"c": (0.5, 0.1)}}, "nats", zero=0)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert first.lines[0].get_xydata().tolist() == [[1.0, 0.0], [2.0, 1.0]]
    ends = first.collections[0].get_segments()[0]
    assert [x for x, _ in ends] == [0.5, 1.5]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first is on top
    assert second.get_title() == "two"


def test_labels_that_all_panels_have_stand_once():
    figure = dots({title: {"a": (1.0, 0.5), "b": (2.0, 0.5)} for title in ("one", "two")}, "nats")
    names = [[label.get_text() for label in ax.get_yticklabels()] for ax in figure.axes]
    assert names == [["a", "b"], ["", ""]]
    assert description(figure).count("b: 1.5 to 2.5") == 2
    apart = dots({"one": {"a": (1.0, 0.5)}, "two": {"b": (2.0, 0.5)}}, "nats")
    assert apart.get_figwidth() > figure.get_figwidth()


def test_curves_over_steps_have_names_and_marks():
    figure = over_steps({1: {10: 2.0, 20: 1.5}, "full": {10: 1.9, 20: 1.0}}, "title")
    (ax,) = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines == {"rank 1": [[10, 2.0], [20, 1.5]], "full training": [[10, 1.9], [20, 1.0]]}
    assert ax.get_xscale() == "log"


def test_rates_share_one_scale():
    figure = rates_by_rank({"a": {"rule": {1: 1e-3, 8: 1e-2}}, "b": {"rule": {8: 1e-1, 16: 2e-2}}})
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    marks = [label.get_text() for label in second.get_yticklabels()]
    assert marks == ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1"]
    assert first.lines[0].get_xydata().tolist() == [[1, 1e-3], [8, 1e-2]]


def test_panels_stand_side_by_side_on_one_scale():
    figure = side_by_side({"a": {"full": {0: 0.1, 9: 0.9}}, "b": {"full": {0: 0.1, 9: 0.5}, 4: {0: 0.2}}}, "x", "y")
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    assert first.lines[0].get_xydata().tolist() == [[0, 0.1], [9, 0.9]]
    assert [line.get_label() for line in second.lines] == ["full training", "rank 4"]


def test_points_are_scattered():
    (ax,) = scattered({4: [(0.1, 3), (0.2, 5)], "full": [(0.1, 0)]}, "t", "x", "y").axes
    assert ax.collections[0].get_offsets().tolist() == [[0.1, 3], [0.2, 5]]
    assert ax.collections[1].get_label() == "full training"


@pytest.mark.parametrize("label", ["full", "LoRA r=4"])
def test_a_front_is_a_line(label):
    (ax,) = fronts({label: [(0.1, 0.0), (0.2, 0.3)]}, "t").axes
    assert ax.lines[0].get_xydata().tolist() == [[0.1, 0.0], [0.2, 0.3]]
