"""What a figure shows, in words."""

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[plots]'")

from lora_np.plots import description, new_figure


def panel(**labels):
    figure, (ax,) = new_figure()
    ax.set(**labels)
    return figure, ax


def test_lines_are_told_by_their_ends_and_levels_by_their_height():
    figure, ax = panel(title="Learning", xlabel="step", ylabel="loss")
    ax.plot([0, 1, 2], [3.0, 9.0, 1.25], label="training")
    ax.plot([0, 1], [5, 6])  # without a label, beside one that has one
    ax.plot([0], [0.123456], label="one point")
    ax.plot([0, 1, 2], [float("nan"), 2, 1234.5], label="with a gap")
    ax.axhline(2.5, label="base")
    told = "training from 3 to 1.25; one point at 0.123; with a gap from 2 to 1,234; base at 2.5"
    assert description(figure) == f"Learning, loss by step: {told}"


def test_a_single_line_needs_no_label():
    figure, ax = panel(title="Alone", ylabel="loss")
    ax.plot([4, 3])
    assert description(figure) == "Alone, loss: a line from 4 to 3"


def test_bars_have_their_names_and_sets_of_bars_their_labels():
    figure, ax = panel(title="Memory", xlabel="MB")
    ax.barh(["full", "LoRA"], [10, 2.5], label="weights")
    ax.barh(["full", "LoRA"], [20, 0.125], left=[10, 2.5], label="gradients")
    assert description(figure) == "Memory, MB: weights (full: 10, LoRA: 2.5); gradients (full: 20, LoRA: 0.125)"
    figure, ax = panel(title="Upright")
    ax.bar(["a", "b"], [1, 2])
    assert description(figure) == "Upright: a: 1, b: 2"
    figure, ax = panel(title="Before and after")
    for i in range(2):
        ax.bar([i - 0.2, i + 0.2], [i + 2, i + 1])
    ax.set_xticks([0, 1], ["prose", "source"])
    assert description(figure) == "Before and after: prose: 2, 1; source: 3, 2"


def test_rows_that_have_names_are_told_by_their_range_in_each_panel():
    figure, (left, right, other) = new_figure(columns=3)
    for ax, names in ((left, ["LoRA", "full"]), (right, []), (other, ["DoRA", "VeRA"])):
        ax.scatter([1, 3], [0, 0])
        ax.errorbar([2], [1], xerr=[0.5], fmt="o")
        ax.set_yticks([0, 1], names)
    left.set_xlabel("loss")
    figure.suptitle("Compared")
    expected = "Compared. loss: LoRA: 1 to 3; full: 2. LoRA: 1 to 3; full: 2. DoRA: 1 to 3; VeRA: 2"
    assert description(figure) == expected


def test_points_and_error_bars_with_a_label():
    figure, ax = panel()
    ax.scatter([1, 2], [3, 4], label="runs")
    ax.scatter([1], [3], label="one")
    ax.errorbar([1, 2], [5, 6], yerr=[0.1, 0.1], label="means")
    assert description(figure) == "means from 5 to 6; runs from (1, 3) to (2, 4); one at (1, 3)"


def test_maps_have_a_size_and_a_range_and_many_panels_titles_only():
    figure, ax = panel(title="Map\nof φ")
    figure.colorbar(ax.imshow([[0.0, 0.5, 1.0], [0.25, 0.125, 2.0]]), ax=ax, label="φ")
    assert description(figure) == "Map of φ: a map of 2 x 3 values, 0 to 2"
    figure, axes = new_figure(columns=7)
    for i, ax in enumerate(axes):
        ax.set_title(f"head {i}")
        ax.plot([1, 2])
    assert description(figure) == "; ".join(f"head {i}" for i in range(7))


def test_formulas_lose_their_signs_and_ticks_that_are_numbers_are_no_names():
    figure, ax = panel(xlabel=r"step $\varepsilon$", xscale="log", yscale="log")
    ax.plot([1, 100], [0.5, 1e-5], label="error")
    figure.draw_without_rendering()
    assert description(figure) == "step varepsilon: error from 0.5 to 1e-05"


def test_nothing_drawn_is_nothing_told():
    assert description(new_figure()[0]) == ""


def test_of_a_crowd_the_first_are_told():
    figure, ax = panel(title="Crowd")
    for i in range(20):
        ax.plot([i, i + 1], label=f"line {i}")
    assert description(figure).endswith("line 15 from 15 to 16; and more")
