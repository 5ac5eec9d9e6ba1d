"""How a student's function is checked: compared with the reference in float64, usual mistakes named.

A topic's module describes each function as an `Exercise` and makes its `check` of them with `checker`. A notebook then
says `f = check(f)`: what comes back is the student's own function when it is right, and the reference when it was not
attempted, so that the rest of the notebook runs. A wrong one is a `WrongAnswerError`.
"""

import copy
import dataclasses
import os
from collections.abc import Callable

import numpy as np

from . import errors
from .comparing import arguments, difference, general_hint, is_numeric, same
from .derivatives import Gradients, finite_differences, from_finite_differences
from .mistakes import Edit, Mistake, float64, suspects, tolerance

__all__ = [
    "Edit",
    "Exercise",
    "Gradients",
    "Mistake",
    "WrongAnswerError",
    "checker",
    "difference",
    "finite_differences",
    "from_finite_differences",
]

GRADING = "NBGRADER_EXECUTION"  # nbgrader sets this variable while it grades: there, no attempt is no point


class WrongAnswerError(AssertionError):
    """A student's function is not right yet. The hint has been printed; in a notebook this shows as one line."""

    def _render_traceback_(self):  # what IPython shows in the place of a traceback
        return [f"Wrong answer: {self}"]


def simply(function, *arguments):
    """The results of a function are what it returns."""
    return function(*arguments)


@dataclasses.dataclass(frozen=True, eq=False)
class Exercise:
    """One function for a student to write, and how to tell whether it is right.

    reference   the right function; the student's has the same name and arguments
    cases       returns a list of dicts {argument: value}, in the order of the arguments; the same at each call
    results     the names of what the function returns, in order
    mistakes    usual mistakes that are no small change of the plain solution, as functions: each is tried alone
    rules       further functions: given the student's function, each returns None, or a sentence about what is wrong
    plain       a plain solution, whose text the `edits` change; None where there are none
    edits       usual mistakes as `Edit`s of it: tried alone, and in pairs
    style       such rules about how it computes: they hold whatever the values are, and are told beside a wrong value
    gradients   `Gradients`, or None
    tolerance   allowed: tolerance · (1 + |expected|); with float32 arguments at least 1e-4
    hints       what `check.hint(function)` says, then `check.hint(function, 2)`: each gives away more
    methods     names of the student's own functions within a class, for the line in which an error arose
    call        how the results are got: call(function, *arguments). Where a class is asked for, it makes an object and
                uses it
    """

    reference: Callable
    cases: Callable = list
    results: tuple = ("the result",)
    mistakes: tuple = ()
    rules: tuple = ()
    plain: Callable | None = None
    edits: tuple = ()
    style: tuple = ()
    gradients: Gradients | None = None
    tolerance: float = 1e-8
    hints: tuple = ()
    methods: tuple = ()
    call: Callable = simply

    @property
    def name(self):
        """The name of the function."""
        return self.reference.__name__


def checker(*exercises):
    """The `check(function)` of a topic: finds the exercise by the function's name and checks it.

    `check.hint(function, number=1)` prints a hint that does not need an attempt.
    """
    by_name = {exercise.name: exercise for exercise in exercises}

    def find(function, who):
        name = getattr(function, "__name__", function)
        if not isinstance(name, str) or name not in by_name:
            raise TypeError(f"{who}() takes one of these functions: {', '.join(by_name)}; got {function!r:.80}")
        return by_name[name]

    def check(function):
        """Check a student's function; return it if it is right, or the reference if it was not attempted.

        WrongAnswerError, with a printed hint, if it is wrong. An error inside the function comes out as it is.
        """
        __tracebackhide__ = True
        return run(find(function, "check"), function)

    def hint(function, number=1):
        """Print hint number 1, 2, ... for one of the functions. ValueError if there is none of that number."""
        hints = find(function, "hint").hints
        if not 1 <= number <= len(hints):
            raise ValueError(f"there are {len(hints)} hints for this function; got number {number}")
        print(f"Hint {number} of {len(hints)}: {hints[number - 1]}")

    check.exercises, check.hint = exercises, hint
    return check


def run(exercise, function):
    """Check one function against its exercise: see `checker`."""
    __tracebackhide__ = True
    case = number = None
    try:
        found, form = [], {}
        for number, case in enumerate(exercise.cases()):  # noqa: B007 (read where an error comes out)
            found.append(_call(exercise, function, case, form))
        number = case = None
        _compare_all(exercise, function, found, list(form))
        _follow_rules(exercise, function)
    except NotImplementedError:
        return _not_attempted(exercise)
    except WrongAnswerError:
        raise
    except Exception as error:
        errors.explain(exercise, error, case, number)
        raise
    print(f"{exercise.name}: right.{_how_close(exercise, found)}")
    return function


def _not_attempted(exercise):
    """Go on with the reference; but not while a grader counts points."""
    if os.environ.get(GRADING):
        raise WrongAnswerError(f"{exercise.name}: not attempted")
    print(f"{exercise.name}: not attempted; going on with the reference.")
    return exercise.reference


def _call(exercise, function, case, form):
    """The results of a student's function on one case, as a tuple; what is wrong in their form goes into `form`."""
    __tracebackhide__ = True
    given, names = copy.deepcopy(case), exercise.results
    results = exercise.call(function, *given.values())
    if results is None:
        _fail(exercise, "it returned nothing. Is the `return` missing?")
    for name, value in case.items():
        if not same(given[name], value):
            form[f"it changed its argument `{name}`. Compute a new array (`a = a + b`, not `a += b`)."] = True
    if len(names) == 1:
        return (results,)
    if isinstance(results, list) and len(results) == len(names):
        form[f"it returns a list: leave the brackets out, `return {', '.join(names)}`."] = True
        results = tuple(results)
    if not isinstance(results, tuple) or len(results) != len(names):
        got = f"{len(results)} things" if isinstance(results, (tuple, list)) else "one"
        _fail(exercise, f"it should return {len(names)} things: {', '.join(names)}. It returns {got}.")
    return results


def _expected(exercise, case):
    """What the reference gives for a case, computed in float64, as a tuple."""
    given = (float64(value) for value in copy.deepcopy(case).values())
    results = exercise.call(exercise.reference, *given)
    return results if len(exercise.results) > 1 else (results,)


def _wrong_results(exercise, found):
    """{number of a result: (the case, what was found, what is expected, the problem)}, for those that are wrong."""
    wrong = {}
    for case, results in zip(exercise.cases(), found, strict=True):
        expected = _expected(exercise, case)
        for i in range(len(exercise.results)):
            problem = difference(results[i], expected[i], tolerance(exercise, case))
            if problem and i not in wrong:
                wrong[i] = case, results[i], expected[i], problem
    return dict(sorted(wrong.items()))


def _compare_all(exercise, function, found, form):
    """A WrongAnswerError if a result is wrong in any case, with the hints of the mistakes that give it."""
    __tracebackhide__ = True
    wrong = _wrong_results(exercise, found)
    if not wrong:
        if form:
            _fail(exercise, form[0], form[1:])
        return
    hints, unknown = suspects(exercise).explain(found, list(wrong))
    general = [general_hint(*wrong[i][1:3]) for i in unknown]
    hints = [*form, *hints, *dict.fromkeys(hint for hint in general if hint), *_style(exercise, function)]
    first, (case, _, _, problem) = next(iter(wrong.items()))
    others = [exercise.results[i] for i in wrong if i != first]
    also = f" {' and '.join(others)} {'is' if len(others) == 1 else 'are'} wrong too." if others else ""
    _fail(exercise, f"{exercise.results[first]}: {problem}.{also}", hints, case)


def _style(exercise, function):
    """What the rules of style have to say; nothing where they stop with an error."""
    said = []
    for rule in exercise.style:
        try:
            with np.errstate(all="ignore"):
                said.append(rule(function))
        except NotImplementedError:
            raise
        except Exception:  # the values are wrong already, and have been explained
            continue
    return [problem for problem in said if problem]


def _follow_rules(exercise, function):
    """A WrongAnswerError with what the rules find. After a first problem, one that stops with an error ends them."""
    __tracebackhide__ = True
    problems = []
    for rule in (*exercise.style, *exercise.rules):
        try:
            problem = rule(function)
        except (NotImplementedError, WrongAnswerError):
            raise
        except Exception:
            if not problems:
                raise
            break
        if problem and problem not in problems:
            problems.append(problem)
    if problems:
        _fail(exercise, problems[0], problems[1:])


def _fail(exercise, problem, hints=(), case=None):
    """Print what is wrong and raise the WrongAnswerError."""
    __tracebackhide__ = True
    print(f"{exercise.name}: not right yet.\n  {problem}")
    if len(hints) == 1:
        print(f"  Hint: {hints[0]}")
    for number, hint in enumerate(hints if len(hints) > 1 else (), 1):
        print(f"  Hint {number} of {len(hints)}: {hint}")
    if case:
        print(f"  It was called with {arguments(case)}.")
    raise WrongAnswerError(
        f"{exercise.name}: {' And: '.join(hints) if hints and case else ' And: '.join((problem, *hints))}"
    )


def _how_close(exercise, found):
    """In words, how near the results came to the reference and to finite differences."""
    pairs = [
        (result, expected)
        for case, results in zip(exercise.cases(), found, strict=True)
        for result, expected in zip(results, _expected(exercise, case), strict=True)
        if is_numeric(expected)
    ]
    text = ""
    if pairs:
        worst = max(float(np.abs(np.asarray(a) - b).max(initial=0)) for a, b in pairs)
        text = f" Largest difference from the reference: {worst:.1e}"
    if exercise.gradients:
        text = f"\n {text}; from finite differences: {from_finite_differences(exercise, found[0]):.1e}"
    return f"{text}." if text else ""
