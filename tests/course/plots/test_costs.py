"""Pictures of costs: that they are drawn from the numbers."""

import numpy as np
import pytest

from lora_course.plots.costs import (
    distance_bars,
    memory_bars,
    merge_errors,
    parameter_counts,
    time_ratios,
    update_errors,
)


def test_parameter_counts_say_how_many_times_fewer():
    (ax,) = parameter_counts({"small": (10, 1000), "large": (100, 12_340_000)}, "A title").axes
    trained, whole = ax.lines
    assert trained.get_xydata().tolist() == [[10, 1], [100, 0]]  # the first is at the top
    assert whole.get_xydata().tolist() == [[1000, 1], [12_340_000, 0]]
    assert [text.get_text() for text in ax.texts] == ["100 times", "123,400 times"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["small", "large"]
    assert (ax.get_title(), ax.get_xscale()) == ("A title", "log")


FULL = {"weights": 2e9, "adapters": 0, "gradients": 2e9, "optimizer": 12e9, "activations": 1e9, "total": 17e9}
LORA = {"weights": 2e9, "adapters": 0, "gradients": 1e9, "optimizer": 3e9, "activations": 1e9, "total": 7e9}


def test_memory_bars_stand_end_to_end_and_add_up():
    figure = memory_bars({"full": FULL, "LoRA": LORA}, "A title")
    (ax,) = figure.axes
    bars = {bars.get_label(): [(bar.get_x(), bar.get_width()) for bar in bars] for bars in ax.containers}
    assert bars == {  # no adapters in either: left out
        "weights": [(0, 2), (0, 2)],
        "gradients": [(2, 2), (2, 1)],
        "optimizer": [(4, 12), (3, 3)],
        "activations": [(16, 1), (6, 1)],
    }
    assert [text.get_text().strip() for text in ax.texts] == ["17.0 GB", "7.0 GB"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(bars)
    assert "GB" in ax.get_xlabel()
    (in_mb,) = memory_bars({"full": FULL}, "A title", 10**6, "MB").axes
    assert in_mb.texts[0].get_text().strip() == "17,000.0 MB"


def test_merge_errors_are_lines_with_the_roundoff_of_their_type():
    (ax,) = merge_errors([1, 4], {"float32": [1e-8, 2e-8], "made up": [0.1, 0.2]}, "A title").axes
    line, roundoff, other, _ = ax.lines
    assert line.get_xydata().tolist() == [[1, 1e-8], [4, 2e-8]]
    assert other.get_xydata().tolist() == [[1, 0.1], [4, 0.2]]
    assert roundoff.get_ydata()[0] == np.finfo(np.float32).eps / 2
    assert roundoff.get_color() == line.get_color()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_time_ratios_show_every_point_and_the_median():
    (ax,) = time_ratios({"merged": [1.0, 0.9, 1.3], "unmerged": [2.0, 4.0, 3.0]}, "A title").axes
    points, median, other_points, other_median = ax.lines[:4]
    assert points.get_xdata().tolist() == [1.0, 0.9, 1.3]
    assert np.abs(points.get_ydata() - 1).max() < 0.2
    assert list(median.get_xdata()) == [1.0, 1.0]
    assert other_points.get_xdata().tolist() == [2.0, 4.0, 3.0]
    assert list(other_median.get_xdata()) == [3.0, 3.0]
    assert list(ax.lines[4].get_xdata()) == [1.0, 1.0]  # the base


def test_a_ratio_far_out_does_not_squeeze_the_others():
    figure = time_ratios({"merged": [1.0, 1.0, 20.0], "unmerged": [1.5, 1.4, 1.6]}, "A title")
    (ax,) = figure.axes
    near, far = ax.lines[:2]
    assert near.get_xdata().tolist() == [1.0, 1.0]
    assert far.get_xdata().tolist() == [3.0]
    assert ax.get_xlim()[1] == 3.0
    assert "beyond the edge (1)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_exact_ones_have_a_colour_of_their_own():
    (ax,) = distance_bars({"exact": 1e-7, "near": 0.25}, "A title", "distance").axes
    exact, near = ax.patches
    assert (exact.get_width(), near.get_width()) == pytest.approx((1e-7, 0.25))
    assert exact.get_facecolor() != near.get_facecolor()
    assert [text.get_text().strip() for text in ax.texts] == ["1.0e-07", "0.250"]
    assert ax.get_xlabel() == "distance"


def test_update_errors_are_lines_against_the_size_of_the_update():
    (ax,) = update_errors([0.1, 0.01], {"float16": [0.002, 0.02], "bfloat16": [0.02, 0.2]}, "A title").axes
    float16, bfloat16, lost = ax.lines
    assert list(float16.get_xdata()) == [0.1, 0.01]
    assert list(bfloat16.get_ydata()) == [0.02, 0.2]
    assert set(lost.get_ydata()) == {1}
    assert ax.get_xlim()[0] > ax.get_xlim()[1]  # the update gets smaller to the right
    assert ax.get_title() == "A title"
