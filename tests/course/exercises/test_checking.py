import re

import numpy as np
import pytest

from lora_course.exercises.checking import (
    GRADING,
    Edit,
    Exercise,
    Gradients,
    Mistake,
    WrongAnswerError,
    checker,
    difference,
    finite_differences,
)
from lora_course.exercises.mistakes import Variants


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
        (lambda x: -x / 2, "Hint: it has the wrong sign"),
        (lambda x: (x / 2)[None], "an axis of length 1 is too many"),
        (lambda x: x / 2 + np.nan, "Hint: NaN comes from 0/0"),
        (lambda x: x / 2 if x.ndim == 2 else x, r"called with x \(2,\)"),
        (lambda x: np.multiply(x, 0.5, out=x), "changed its argument `x`"),
    ],
)
def test_what_is_wrong_is_said(function, said, capsys):
    with pytest.raises(WrongAnswerError):
        check(named("half", function))
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize("function", [lambda x: x + 1, lambda x: [x + 1], lambda x: (x, x, x)])
def test_the_number_of_results_is_checked(function):
    with pytest.raises(WrongAnswerError, match="2 things: more, less"):
        check(named("pair", function))


def test_a_list_in_the_place_of_a_tuple_is_named_beside_a_wrong_value(capsys):
    with pytest.raises(WrongAnswerError, match="leave the brackets out, `return more, less`"):
        check(named("pair", lambda x: [x + 1, x - 1]))
    with pytest.raises(WrongAnswerError, match=r"returns a list.*wrong sign"):
        check(named("pair", lambda x: [x + 1, 1 - x]))


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


@pytest.mark.parametrize(
    ("function", "error", "hint"),
    [
        (lambda x: x + x.T, ValueError, "each other's transpose"),
        (lambda x: x - x.mean(axis=1), ValueError, "keepdims=True keeps the axis"),
        (lambda x: x if x == 0 else 0, ValueError, "no truth value"),
        (lambda x: x[len(x)], IndexError, "from 0 to the length minus 1"),
        (lambda x: {"a": x}["b"], KeyError, "no entry of that name"),
        (lambda x: {"a": x}.a, AttributeError, "taken with brackets"),
        (lambda x: np.zeros((2, 3, 4)) @ x, ValueError, "print the shapes"),
    ],
)
def test_usual_errors_get_a_hint(function, error, hint, capsys):
    with pytest.raises(error):
        check(named("half", function))
    assert hint in capsys.readouterr().out


def test_an_error_of_the_student_s_own_is_not_taken_for_a_matter_of_shapes(capsys):
    def half(x):
        raise ValueError("nothing to halve")

    with pytest.raises(ValueError, match="nothing to halve"):
        check(half)
    assert "Hint: your own `raise` stopped it" in capsys.readouterr().out


def test_a_transpose_of_three_axes_is_named(capsys):
    def product(x, y):
        return x.T @ y

    deep = checker(Exercise(product, lambda: [{"x": np.ones((2, 3, 4)), "y": np.ones((2, 3, 5))}]))
    with pytest.raises(ValueError, match="matmul"):
        deep(product)
    assert "`.T` turns all axes round" in capsys.readouterr().out


def root(x):
    return np.abs(x)


def test_a_mistake_that_gives_nan_is_known_by_where_it_is_nan(capsys):
    at_zero = Mistake("0/0 stands at 0.", lambda x: x * x / x)
    below = Mistake("there is no root below 0.", lambda x: np.sqrt(x) ** 2)
    check_root = checker(Exercise(root, lambda: [{"x": np.array([-4.0, 0.0, 4.0])}], mistakes=(at_zero, below)))

    def careless(x):
        return np.where(x < 0, np.nan, x)

    with pytest.raises(WrongAnswerError, match="no root below 0"):
        check_root(named("root", careless))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (7, "it is 7; it should be 41943040$"),
        (2 * 41943040, "Hint: it is 2 times what it should be"),
    ],
)
def test_of_two_single_numbers_only_a_round_factor_is_told(found, said, capsys):
    def count():
        return 41943040

    with pytest.raises(WrongAnswerError):
        checker(Exercise(count, lambda: [{}]))(named("count", lambda: found))
    out = capsys.readouterr().out
    assert re.search(said, out.replace(".\n", "\n"), re.MULTILINE)
    assert ("Hint" in said) == ("Hint" in out)


def test_of_two_lists_only_what_differs_is_told():
    assert difference(["a", "c"], ["a", "b"], 0) == "it lacks ['b']; it should not have ['c']"
    assert "another order" in difference(["b", "a"], ["a", "b"], 0)


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
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), True),
        (np.array([np.nan, 1.0]), np.array([1.0, np.nan]), False),
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
    assert max(map(len, capsys.readouterr().out.split("\n"))) < 100
    checker(Exercise(slope, lambda: one, ("dx",), gradients=Gradients(lambda x: x**3, {"dx": "x"})))(slope)
    distance = float(capsys.readouterr().out.rstrip(".\n").split("from finite differences: ")[1])
    assert distance < 1e-8


def test_in_a_notebook_a_wrong_answer_is_one_line():
    assert WrongAnswerError("half: it is not halved.")._render_traceback_() == ["Wrong answer: half: it is not halved."]


def test_hints_are_given_by_number(capsys):
    asked = checker(Exercise(half, cases, hints=("think of two.", "x / 2")))
    asked.hint(half)
    asked.hint("half", 2)
    assert capsys.readouterr().out == "Hint 1 of 2: think of two.\nHint 2 of 2: x / 2\n"
    with pytest.raises(ValueError, match="there are 2 hints"):
        asked.hint(half, 3)
    with pytest.raises(TypeError, match=r"hint\(\) takes one of these"):
        asked.hint(pair)


def plain_half(x):
    y = x / 2
    return y - 1


HALVES = (
    Edit("it is multiplied.", {"x / 2": "x * 2"}),
    Edit("1 is added.", {"y - 1": "y + 1"}),
    Edit("nothing is subtracted.", {"y - 1": "y"}),
)


def test_two_edits_are_named_together_and_not_where_they_change_one_place(capsys):
    both = checker(Exercise(plain_half, cases, plain=plain_half, edits=HALVES))
    with pytest.raises(WrongAnswerError, match=r"it is multiplied\. And: 1 is added"):
        both(named("plain_half", lambda x: x * 2 + 1))
    assert "Hint 2 of 2: 1 is added." in capsys.readouterr().out
    variants = Variants(plain_half, HALVES)
    assert variants.function(1, 2) is None
    assert variants.function(0, 2)(3) == 6


@pytest.mark.parametrize("old", ["x", "nowhere"])
def test_an_edit_has_to_be_found_once(old):
    with pytest.raises(ValueError, match="not once"):
        Variants(plain_half, [Edit("no", {old: ""})])
