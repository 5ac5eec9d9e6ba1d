"""The shared style: panels, and how a figure is shown in a notebook."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lora_np.plots import CYCLE, MARKERS, new_figure, show


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
    assert metadata["image/png"]["alt"] == "Loss by step. Memory"
    assert metadata["image/png"]["width"] == 900


@pytest.mark.parametrize(("width", "shown_at"), [(3, 360), (12, 900)])
def test_a_shown_figure_is_twice_as_sharp_as_it_is_wide_and_small(width, shown_at, monkeypatch):
    display = pytest.importorskip("IPython.display", reason="needs IPython: pip install -e '.[notebooks]'")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    figure, (ax,) = new_figure(width=width)
    for i, colour in enumerate(CYCLE):
        ax.plot(np.random.default_rng(i).standard_normal(50).cumsum(), color=colour, marker=MARKERS[i])
    show(figure)
    data, metadata = shown[0]._repr_mimebundle_()
    content = base64.b64decode(data["image/png"])
    with Image.open(io.BytesIO(content)) as picture, Image.open(io.BytesIO(rendered(figure, picture))) as full:
        assert metadata["image/png"]["width"] == shown_at
        assert picture.width == 2 * shown_at
        off = np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(full.convert("RGB"), float))
        assert off.mean() < 1  # of 255
    assert len(content) < 0.5 * len(rendered(figure, picture))


def rendered(figure, picture):
    """The figure as matplotlib writes it, as wide as the picture."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=picture.width / figure.get_figwidth())
    return whole.getvalue()
