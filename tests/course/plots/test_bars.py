"""Bar charts: lengths, labels and stacks are those of the numbers."""

import pytest

from lora_course.plots.bars import CYCLE, number, part_bars, stacked_bars


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_one_bar_for_each_part_with_its_number():
    (ax,) = part_bars({"weights": 12345, "adapter": 0.125}, "A title", "MB").axes
    assert [bar.get_width() for bar in ax.patches] == [12345, 0.125]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["weights", "adapter"]
    assert ax.yaxis_inverted()  # the first on top
    assert texts(ax) == ["12,345", "0.125"]
    assert (ax.get_title(), ax.get_xlabel()) == ("A title", "MB")


def test_stacked_parts_begin_where_the_one_before_ends():
    figure = stacked_bars({"full": {"a": 3, "b": 4}, "LoRA": {"b": 1, "c": 2}}, "A title", "MB")
    (ax,) = figure.axes
    drawn = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert drawn == [(0, 3), (0, 0), (3, 4), (0, 1), (7, 0), (1, 2)]  # a, then b, then c, of both cases
    assert texts(ax) == ["7", "3"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]


def test_more_parts_than_colours_are_refused():
    with pytest.raises(ValueError, match="7 parts"):
        stacked_bars({"x": dict.fromkeys(range(len(CYCLE) + 1), 1)}, "A title", "MB")


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0"), (7.0, "7"), (16777216, "16,777,216"), (1234.5, "1,234"), (0.01234, "0.0123")]
)
def test_numbers_beside_bars(value, written):
    assert number(value) == written
