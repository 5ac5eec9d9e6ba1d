"""Pictures: that they are drawn from the numbers, and written as PNG."""

import numpy as np
import pytest

from lora_np import plots

HISTORY = {
    "loss": [3.0, 2.5, 2.25, 2.0],
    "evaluation": [{"step": 0, "prose": 3.0, "code": 1.0}, {"step": 4, "prose": 2.0, "code": 1.5}],
}


def test_the_curves_are_the_historys():
    curves, bars = plots.training_curves(HISTORY, "A title").axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in curves.lines}
    assert lines == {
        "training batches": [[1, 3.0], [2, 2.5], [3, 2.25], [4, 2.0]],
        "prose, held out": [[0, 3.0], [4, 2.0]],
        "code, held out": [[0, 1.0], [4, 1.5]],
    }
    assert [bar.get_height() for bar in bars.patches] == [3.0, 2.0, 1.0, 1.5]
    assert curves.get_title() == "A title"
    assert "nats per byte" in curves.get_ylabel()
    assert curves.get_xlabel()


def test_what_is_no_loss_has_a_panel_of_its_own():
    """As Trainer measures: eval_NAME, or of several data sets DATA_NAME, whose names may begin alike."""
    first = {"eval": 3.0, "eval_accuracy": 0.25, "eval_rows": 7, "b": 2.0, "b_accuracy": 0.5}
    history = {"loss": [3.0, 2.0], "evaluation": [{"step": 0, **first}, {"step": 2, **first, "eval_accuracy": 0.75}]}
    curves, bars, accuracy, rows = plots.training_curves(history, "A title").axes
    lines = {ax: [(line.get_label(), line.get_ydata()[-1]) for line in ax.lines] for ax in (curves, accuracy, rows)}
    assert lines[curves] == [("training batches", 2.0), ("eval, held out", 3.0), ("b, held out", 2.0)]
    assert lines[accuracy] == [("eval, held out", 0.75), ("b, held out", 0.5)]
    assert lines[rows] == [("eval, held out", 7)]
    assert [bar.get_height() for bar in bars.patches] == [3.0, 3.0, 2.0, 2.0]
    assert (accuracy.get_ylabel(), rows.get_ylabel()) == ("accuracy", "rows")
    assert accuracy.lines[1].get_color() == curves.lines[2].get_color()


def test_the_legend_hides_no_curve():
    figure = plots.training_curves(HISTORY, "A title")
    figure.draw_without_rendering()
    curves = figure.axes[0]
    legend = curves.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [line.get_label() for line in curves.lines]
    box = legend.get_window_extent()
    assert not box.overlaps(curves.get_window_extent())
    assert not box.overlaps(curves.xaxis.label.get_window_extent())


def test_a_saved_picture_is_a_png_of_some_size(tmp_path):
    from matplotlib.image import imread

    plots.save(plots.training_curves(HISTORY, "A title"), tmp_path / "deep" / "picture.png")
    picture = imread(tmp_path / "deep" / "picture.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] > 800
    assert np.ptp(picture[..., :3]) == pytest.approx(1.0)  # from white to black
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["picture.png"]


WITHOUT = [{"loss": [3.0, 2.0], "evaluation": []}, {"loss": [3.0, 2.0]}]


@pytest.mark.parametrize("history", WITHOUT, ids=["empty", "missing"])
def test_a_run_without_an_evaluation_is_its_curve(history, tmp_path):
    figure = plots.training_curves(history, "A title")
    (curves,) = figure.axes
    assert [line.get_xydata().tolist() for line in curves.lines] == [[[1, 3.0], [2, 2.0]]]
    plots.save(figure, tmp_path / "picture.png")


ODD = {
    "one step": {"loss": [3.0], "evaluation": [{"step": 0, "a": 3.0}, {"step": 1, "a": 2.0}]},
    "no step": {"loss": [], "evaluation": [{"step": 0, "a": 3.0}]},
    "nothing": {"loss": [], "evaluation": []},
    "nan": {"loss": [3.0, float("nan"), 2.0], "evaluation": [{"step": 0, "a": float("nan")}]},
    "all nan": {"loss": [float("nan")] * 3, "evaluation": [{"step": 0, "a": float("inf")}]},
    "many data sets": {"loss": [3.0, 2.0], "evaluation": [{"step": 0, **dict.fromkeys("abcdefgh", 1.0)}]},
}


@pytest.mark.parametrize("what", ODD)
def test_runs_of_odd_shapes_are_drawn(what, tmp_path):
    figure = plots.training_curves(ODD[what], "A title")
    plots.save(figure, tmp_path / "picture.png")
    evaluations = ODD[what]["evaluation"]
    assert len(figure.axes[0].lines) == 1 + len(evaluations[0].keys() - {"step"} if evaluations else [])


def test_what_was_not_measured_each_time_is_no_curve():
    evaluations = [{"step": 0, "a": 2.0, "b": 1.0}, {"step": 1, "a": 1.0, "c": 3.0}]
    figure = plots.training_curves({"loss": [2.0], "evaluation": evaluations}, "A title")
    assert figure.axes[0].get_legend_handles_labels()[1] == ["training batches", "a, held out"]


def test_a_single_step_can_be_seen():
    curves = plots.training_curves(ODD["one step"], "A title").axes[0]
    assert curves.lines[0].get_marker() == "."


@pytest.mark.parametrize("history", [None, "history", 3, [1.0, 2.0], {}, {"losses": [1.0]}, dict])
def test_what_is_no_history_is_refused(history):
    with pytest.raises(TypeError, match=r"training_curves.*history should be what train\(\.\.\.\) returned, got "):
        plots.training_curves(history, "A title")
