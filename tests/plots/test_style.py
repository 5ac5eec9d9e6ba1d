"""The shared style: panels, and how a figure is shown in a notebook."""

import base64

import pytest

from lora_np.plots import new_figure, show


def test_panels_come_in_reading_order():
    figure, axes = new_figure(columns=3, rows=2, width=2, height=1)
    assert len(axes) == 6
    figure.draw_without_rendering()
    places = [(round(-ax.get_position().y0, 2), round(ax.get_position().x0, 2)) for ax in axes]
    assert places == sorted(places)
    assert tuple(figure.get_size_inches()) == (6, 2)


def test_a_shown_figure_is_a_png_that_says_what_it_is(monkeypatch):
    display = pytest.importorskip("IPython.display", reason="needs IPython: pip install -e '.[notebooks]'")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    figure, (left, right) = new_figure(columns=2, width=8)
    left.set_title("Loss\nby step")
    right.set_title("Memory")
    show(figure)
    data, metadata = shown[0]._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == "Loss by step; Memory"
    assert metadata["image/png"]["width"] == 900
