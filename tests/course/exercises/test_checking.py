import re

import numpy as np
import pytest

from lora_np.course.exercises.checking import (
    GRADING,
    Exercise,
    Gradients,
    Mistake,
    WrongAnswerError,
    checker,
    difference,
    finite_differences,
)


def half(x):
    """x / 2"""
    return x / 2


def pair(x):
    return x + 1, x - 1


def cases():
    return [{"x": np.arange(6.0).reshape(2, 3)}, {"x": np.array([1.0, -2.0])}]


MISTAKES = (Mistake("it is not halved.", lambda x: x), Mistake("it is halved twice.", lambda x: x / 4))
check = checker(Exercise(half, cases, ("y",), MISTAKES), Exercise(pair, cases, ("more", "less")))


def named(name, function):
    function.__name__ = name
    return function


def test_a_right_function_comes_back(capsys):
    mine = named("half", lambda x: 0.5 * x)
    assert check(mine) is mine
    assert "half: right. Largest difference from the reference: 0.0e+00." in capsys.readouterr().out


def test_not_attempted_gives_the_reference(capsys):
    def half(x):
        raise NotImplementedError

    assert check(half)(4.0) == 2.0
    assert "half: not attempted; going on with the reference." in capsys.readouterr().out


def test_while_grading_no_attempt_is_wrong(monkeypatch):
    def half(x):
        raise NotImplementedError

    monkeypatch.setenv(GRADING, "autograde")
    with pytest.raises(WrongAnswerError, match="not attempted"):
        check(half)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x, "Hint: it is not halved"),
        (lambda x: x / 4, "Hint: it is halved twice"),
        (lambda x: x / 5, "Hint: it is 0.4 times what it should be"),
        (lambda x: (x / 2).T, r"its shape is \(3, 2\); it should be \(2, 3\)"),
        (lambda x: (x / 2).T, "it is the transpose"),
        (lambda x: x / 2 + np.nan, "not numbers"),
        (lambda x: x / 2 + (x == 4), r"the largest difference is 1 at index \(1, 1\): 3, which should be 2 \(1 of 6"),
        (lambda x: None, "`return` missing"),
        (lambda x: "half", "an array of shape"),
        (lambda x: x / 2 if x.ndim == 2 else x, r"called with x \(2,\)"),
        (lambda x: np.multiply(x, 0.5, out=x), "changed its argument `x`"),
    ],
)
def test_what_is_wrong_is_said(function, said, capsys):
    with pytest.raises(WrongAnswerError):
        check(named("half", function))
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize("function", [lambda x: x + 1, lambda x: [x + 1, x - 1], lambda x: (x, x, x)])
def test_the_number_of_results_is_checked(function):
    with pytest.raises(WrongAnswerError, match="2 things: more, less"):
        check(named("pair", function))


def test_the_wrong_one_of_two_results_is_named(capsys):
    with pytest.raises(WrongAnswerError):
        check(named("pair", lambda x: (x + 1, x - 2)))
    assert "less: the largest difference is 1" in capsys.readouterr().out


def test_an_error_in_the_function_comes_out_with_its_line_and_arguments(capsys):
    def half(x):
        return x @ np.ones((7, 2))

    with pytest.raises(ValueError, match="matmul"):
        check(half)
    out = capsys.readouterr().out
    assert "stopped at `return x @ np.ones((7, 2))` with ValueError" in out
    assert "It was called with x (2, 3)" in out


def test_a_misspelled_name_gets_its_own_hint(capsys):
    def half(x):
        return y / 2  # noqa: F821

    with pytest.raises(NameError):
        check(half)
    assert "spelled" in capsys.readouterr().out


def test_rules_run_after_the_values_and_errors_in_them_come_out(capsys):
    seen = []
    rule = checker(Exercise(half, cases, rules=(lambda f: seen.append(1), lambda f: "it is too slow.")))
    with pytest.raises(WrongAnswerError):
        rule(named("half", lambda x: x))
    assert not seen
    with pytest.raises(WrongAnswerError, match="too slow"):
        rule(half)
    assert seen


@pytest.mark.parametrize("thing", [lambda x: x, 3, np.ones(2)])
def test_only_functions_with_a_known_name_are_taken(thing):
    with pytest.raises(TypeError, match="half, pair"):
        check(thing)


def test_float32_arguments_are_compared_with_float64_and_allowed_their_rounding():
    single = checker(Exercise(half, lambda: [{"x": np.linspace(1, 2, 50, dtype=np.float32)}]))
    single(named("half", lambda x: x * np.float32(0.50001)))
    with pytest.raises(WrongAnswerError):
        single(named("half", lambda x: x * np.float32(0.501)))
    with pytest.raises(WrongAnswerError):
        check(named("half", lambda x: x * 0.50001))


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (True, True, True),
        (1, True, True),  # == decides where no numbers are expected
        (False, True, False),
        (["a"], ["a"], True),
        (["a"], ["b"], False),
        (3, 3, True),
        (True, 3, False),
        (3.0, np.float64(3), True),
        ([1.0, 2.0], np.array([1.0, 2.0]), False),
        (np.array([1.0]), np.array([1.0, 2.0]), False),
        (np.array([np.inf]), np.array([1.0]), False),
    ],
)
def test_difference(found, expected, same):
    assert (difference(found, expected, 1e-8) is None) == same


def test_finite_differences_are_those_of_a_known_gradient(rng):
    x, v = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    found = finite_differences(lambda x, k: k * x**3, {"x": x, "k": 2.0}, "x", v)
    np.testing.assert_allclose(found, v * 6 * x**2, atol=1e-8)


def test_gradients_are_compared_with_finite_differences(capsys):
    def slope(dy, x):
        return 3 * x**2 * dy

    one = [{"dy": np.array([1.0, 2.0]), "x": np.array([0.5, -1.0])}]
    checker(Exercise(slope, lambda: one, ("dx",), gradients=Gradients(lambda x: x**3, {"dx": "x"})))(slope)
    distance = float(capsys.readouterr().out.rstrip(".\n").split("from finite differences: ")[1])
    assert distance < 1e-8


def test_in_a_notebook_a_wrong_answer_is_one_line():
    assert WrongAnswerError("half: it is not halved.")._render_traceback_() == ["Wrong answer: half: it is not halved."]
