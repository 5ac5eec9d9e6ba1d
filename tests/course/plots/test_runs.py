"""Pictures that compare runs: what is drawn are the numbers that were given, their means and their ranges."""

import pytest

from lora_course.plots.runs import compare_methods, loss_curves


def history(steps, prose, source):
    rows = zip(steps, prose, source, strict=True)
    return {"loss": [], "evaluation": [{"step": s, "prose": p, "source": c} for s, p, c in rows]}


RUNS = {
    "LoRA": [history([0, 5], [3.0, 2.0], [1.0, 1.2]), history([0, 5], [3.0, 1.0], [1.0, 1.6])],
    "full": [history([0, 5], [3.0, 0.5], [1.0, 2.0])],
}
RESULTS = {"LoRA": {"prose": [2.0, 1.0], "source": [1.2, 1.6]}, "full": {"prose": [0.5], "source": [2.0]}}
BASE = {"prose": 3.0, "source": 1.0}


def test_a_curve_is_the_mean_of_its_seeds_and_the_band_their_range():
    figure = loss_curves(RUNS, "A title")
    prose, source = figure.axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in prose.lines}
    assert curves == {"LoRA": [[0, 3.0], [5, 1.5]], "full": [[0, 3.0], [5, 0.5]]}
    assert source.lines[0].get_ydata().tolist() == pytest.approx([1.0, 1.4])
    (band,) = prose.collections  # a single seed has none
    corners = band.get_paths()[0].vertices
    assert {tuple(c) for c in corners} == {(0, 3.0), (5, 1.0), (5, 2.0)}
    assert figure.get_suptitle() == "A title"
    assert [ax.get_title() for ax in figure.axes] == ["prose, held out", "source, held out"]
    assert all("nats per byte" in ax.get_ylabel() and ax.get_xlabel() for ax in figure.axes)
    assert [text.get_text() for text in prose.get_legend().get_texts()] == ["LoRA", "full"]
    assert len({line.get_color() for line in prose.lines}) == len({line.get_marker() for line in prose.lines}) == 2


def test_seeds_evaluated_at_different_steps_have_no_mean():
    other = history([0, 6], [3.0, 2.0], [1.0, 1.2])
    with pytest.raises(ValueError, match="'LoRA' were evaluated at different steps"):
        loss_curves({"LoRA": [RUNS["LoRA"][0], other]}, "A title")


def test_a_comparison_has_a_dot_for_each_seed_and_a_bar_at_the_mean():
    figure = compare_methods(RESULTS, "A title", BASE)
    prose, source = figure.axes
    assert [label.get_text() for label in prose.get_yticklabels()] == ["LoRA", "full"]
    dots = [dots.get_offsets().tolist() for dots in prose.collections]
    assert dots == [[[2.0, 0.0], [1.0, 0.0]], [[0.5, 1.0]]]
    *bars, base = [line.get_xdata() for line in source.lines]
    assert [bar[0] for bar in bars] == pytest.approx([1.4, 2.0])
    assert base[0] == 1.0
    assert list(source.get_yticks()) == [0, 1]
    assert prose.yaxis_inverted()  # the first method on top
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["base model"]
    assert "nats per byte" in prose.get_xlabel()


def test_without_a_base_no_line_is_drawn_for_it():
    figure = compare_methods(RESULTS, "A title")
    assert len(figure.axes[0].lines) == 2
    assert not figure.legends


def test_the_legend_hides_no_data():
    """It lies below the panels: on them it looked like one more row."""
    figure = compare_methods(RESULTS, "A title", BASE)
    figure.draw_without_rendering()
    top = figure.legends[0].get_window_extent().y1
    assert all(top <= ax.get_tightbbox().y0 for ax in figure.axes)


@pytest.mark.parametrize("draw", [loss_curves, compare_methods])
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw({}, "A title")
