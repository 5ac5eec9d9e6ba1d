"""Attention maps: that each panel shows its own weights, and the text stands where it belongs."""

import numpy as np
import pytest

from lora_course.plots import attention
from lora_course.plots.attention import attention_maps

CAUSAL = np.tril(np.arange(1.0, 10).reshape(3, 3)) / 24


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_each_panel_shows_its_weights_and_hides_what_is_masked():
    figure = attention_maps({"one": CAUSAL, "two": CAUSAL.T}, title="A title", columns=2)
    first, second, bar = figure.axes
    for ax, name, weights in ((first, "one", CAUSAL), (second, "two", CAUSAL.T)):
        (image,) = ax.images
        assert ax.get_title() == name
        np.testing.assert_array_equal(image.get_array().filled(0), weights)
        np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), weights == 0)
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)  # the same colours in every panel
    assert bar.get_ylabel() == "share of the attention"
    assert figure.get_suptitle() == "A title"
    assert "query" in figure.get_supylabel()
    assert "key" in figure.get_supxlabel()


def test_the_text_is_written_along_a_single_map():
    ax = attention_maps({"one": CAUSAL}, text="a \n").axes[0]
    assert labels(ax.xaxis) == labels(ax.yaxis) == ["a", "·", "↵"]


def test_a_long_text_is_not_written():
    n = attention.LABELLED + 1
    ax = attention_maps({"one": np.tril(np.ones((n, n)))}, text="x" * n).axes[0]
    assert "x" not in labels(ax.xaxis)


def test_unused_panels_are_empty():
    figure = attention_maps(dict.fromkeys("abc", CAUSAL), columns=2)
    assert [ax.axison for ax in figure.axes[:4]] == [True, True, True, False]


def test_a_text_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"'one' is \(3, 3\), the text has 2"):
        attention_maps({"one": CAUSAL}, text="ab")
