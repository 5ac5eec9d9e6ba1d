"""Intervals, best rates, places between marks."""

import math

import pytest

from lora_course.verdicts.statistics import (
    at_edge,
    best_rate,
    best_rates,
    chosen,
    differences,
    final,
    interval,
    shown,
    value_at,
    where,
)


def run(rate, seed, validation, prose=None, diverged=False):
    prose = validation if prose is None else prose
    fields = {"rate": rate, "seed": seed, "diverged": diverged, "step": [10]}
    return {**fields, "validation": [validation], "prose": [prose]}


def test_an_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5)  # the deviation is 1
    assert shown((1.0, 0.5), 1) == "1.0 ± 0.5"
    assert math.isnan(interval([1.0])[1])


def test_the_best_rate_is_where_the_parabola_is_lowest():
    losses = {rate: (math.log(rate / 3e-3)) ** 2 for rate in (1e-3, 2e-3, 4e-3, 8e-3)}
    assert best_rate(losses) == pytest.approx(3e-3)


@pytest.mark.parametrize("losses", [{1: 1.0, 2: 2.0, 4: 3.0}, {1: 1.0, 2: None, 4: 3.0}, {0.5: None, 1: 1.0, 2: 2.0}])
def test_at_an_edge_the_best_rate_is_one_that_was_tried(losses):
    assert best_rate(losses) == 1


def test_a_place_between_marks():
    seen = {"prose": [2.0, 1.0], "size": [10.0, 30.0], "step": [5, 10]}
    place = where(seen, "prose", 1.25, 3.0)
    assert place == (1, 0.75)
    assert value_at(seen, place, "size", 0.0) == 25.0
    assert value_at(seen, where(seen, "prose", 2.5, 3.0), "size", 0.0) == 5.0  # before the first mark
    assert where(seen, "prose", 0.5, 3.0) is None


def test_validation_chooses_and_not_all_rates_have_all_seeds():
    runs = [run(1, 0, 1.0, 9.0), run(1, 1, 1.2, 8.0), run(2, 0, 1.1, 0.1), run(2, 1, 1.15, 0.1), run(4, 0, 0.0)]
    assert [found["rate"] for found in chosen(runs)] == [1, 1]
    assert at_edge(runs)
    assert not at_edge([run(0.5, 0, 3.0), run(1, 0, 1.0), run(2, 0, 2.0)])


def test_one_that_diverged_is_infinitely_bad():
    runs = [run(1, 0, 2.0), run(2, 0, 1.0, diverged=True)]
    assert final(runs[1]) == math.inf
    assert chosen(runs)[0]["rate"] == 1
    assert best_rates(runs) == {0: 1}
    assert final(runs[0], step=20) == math.inf


def test_differences_are_of_one_seed():
    runs, others = [run(1, 1, 5.0), run(1, 0, 3.0)], [run(2, 0, 1.0), run(2, 1, 1.5), run(2, 2, 0.0)]
    assert differences(runs, others) == [2.0, 3.5]
