"""Pictures of updates: that what is drawn are the numbers, beside what they are compared with."""

import numpy as np
import pytest

from lora_course.plots.subspaces import energy_share, loss_by_rank, norm_bars, phi_maps, spectra


def test_the_share_of_the_energy_is_of_squares_and_ends_at_one():
    np.testing.assert_allclose(energy_share([4.0, 2.0, 2.0, 1.0]), [16 / 25, 20 / 25, 24 / 25, 1])
    both = energy_share([[1.0, 0.0], [1.0, 1.0]])  # each row by itself
    np.testing.assert_allclose(both, [[1, 1], [0.5, 1]])


def test_spectra_are_drawn_over_the_largest_and_as_energy():
    found = spectra({"one": [10.0, 5.0, 0.0], "two": [[2.0, 2.0, 1.0], [4.0, 2.0, 2.0]]}, "A title")
    values, energy = found.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in values.lines}
    assert lines == {"one": [[1, 1.0], [2, 0.5], [3, 0.0]], "two": [[1, 1.0], [2, 0.75], [3, 0.5]]}
    np.testing.assert_allclose(energy.lines[0].get_ydata(), [80, 100, 100])
    np.testing.assert_allclose(energy.lines[1].get_ydata(), [(400 / 9 + 400 / 6) / 2, (800 / 9 + 500 / 6) / 2, 100])
    assert values.get_title() == "A title"
    assert "%" in energy.get_ylabel()
    assert [text.get_text() for text in energy.get_legend().get_texts()] == ["one", "two"]


def test_spectra_of_one_label_are_of_one_length():
    with pytest.raises(ValueError, match="'two' differ in length"):
        spectra({"two": [[2.0, 1.0], [4.0, 2.0, 2.0]]}, "A title")


def test_maps_share_one_scale_and_stand_with_i_from_above():
    first, control = np.array([[0.1, 0.2], [0.3, 0.8]]), np.full((2, 3), 0.05)
    figure = phi_maps({"trained": first, "random": control}, "A title", ("of r=2", "of the other"))
    left, right, bar = figure.axes
    np.testing.assert_array_equal(left.images[0].get_array(), first)
    assert left.images[0].get_extent() == [0.5, 2.5, 2.5, 0.5]
    assert {image.get_clim() for ax in (left, right) for image in ax.images} == {(0, 0.8)}
    assert (left.get_ylabel(), right.get_xlabel(), right.get_title()) == ("of r=2", "of the other", "random")
    assert "φ" in bar.get_ylabel()
    ticks = np.concatenate([left.get_xticks(), left.get_yticks()])
    np.testing.assert_array_equal(ticks, ticks.round())  # there are no half directions
    fixed = phi_maps({"trained": first}, "A title", most=1.0)
    assert fixed.axes[0].images[0].get_clim() == (0, 1)


def test_losses_stand_at_their_ranks():
    figure = loss_by_rank(
        {"cut": ((1, 4, 8), (3.0, 2.0, 1.5))}, {"trained": ((4,), (1.75,))}, {"base": 3.5, "full": 1.5}, "A title"
    )
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["cut"].get_xydata().tolist() == [[1, 3.0], [4, 2.0], [8, 1.5]]
    assert set(lines["base"].get_ydata()) == {3.5}
    assert ax.collections[0].get_offsets().tolist() == [[4, 1.75]]
    assert ax.collections[0].get_facecolor().size == 0, "a filled marker would hide the line beneath"
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "8"]
    assert "nats per byte" in ax.get_ylabel()
    assert len({line.get_color() for line in ax.lines}) == 3


def test_bars_stand_in_groups():
    groups = {"LoRA": {"own": 2.0, "random": 0.5}, "full": {"own": 3.0, "random": 0.25}}
    (ax,) = norm_bars(groups, "A title", "a norm").axes
    bars = {c.get_label(): [bar.get_height() for bar in c] for c in ax.containers}
    assert bars == {"own": [2.0, 3.0], "random": [0.5, 0.25]}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["LoRA", "full"]
    centres = [[bar.get_x() + bar.get_width() / 2 for bar in c] for c in ax.containers]
    np.testing.assert_allclose(np.mean(centres, axis=0), [0, 1], atol=1e-12)
    assert [text.get_text() for text in ax.texts] == ["2.00", "3.00", "0.50", "0.25"]
