"""How a student's function is checked: compared with the reference in float64, usual mistakes named.

A topic's module describes each function as an `Exercise` and makes its `check` of them with `checker`. A notebook then
says `f = check(f)`: what comes back is the student's own function when it is right, and the reference when it was not
attempted, so that the rest of the notebook runs. A wrong one is a `WrongAnswerError`.
"""

import copy
import dataclasses
import os
import re
import traceback
from collections.abc import Callable

import numpy as np

GRADING = "NBGRADER_EXECUTION"  # nbgrader sets this variable while it grades: there, no attempt is no point


class WrongAnswerError(AssertionError):
    """A student's function is not right yet. The hint has been printed; in a notebook this shows as one line."""

    def _render_traceback_(self):  # what IPython shows in the place of a traceback
        return [f"Wrong answer: {self}"]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A usual mistake: `function` gives what the exercise's function would give with it, `hint` what to say then."""

    hint: str
    function: Callable


@dataclasses.dataclass(frozen=True)
class Gradients:
    """For functions that compute gradients: what they should be the gradients of, for a check by finite differences.

    forward     a function of those arguments of a case that it names
    of          {name of a result: the argument whose gradient it is}
    cotangent   the argument that holds the gradient of forward's result; None where that result is one number
    """

    forward: Callable
    of: dict
    cotangent: str | None = "dy"


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One function for a student to write, and how to tell whether it is right.

    reference   the right function; the student's has the same name and arguments
    cases       returns a list of dicts {argument: value}, in the order of the arguments; the same at each call
    results     the names of what the function returns, in order
    mistakes    each is tried on the results that are wrong
    rules       further functions: given the student's function, each returns None, or a sentence about what is wrong
    gradients   `Gradients`, or None
    tolerance   allowed: tolerance · (1 + |expected|); with float32 arguments at least 1e-4
    """

    reference: Callable
    cases: Callable = list
    results: tuple = ("the result",)
    mistakes: tuple = ()
    rules: tuple = ()
    gradients: Gradients | None = None
    tolerance: float = 1e-8

    @property
    def name(self):
        """The name of the function."""
        return self.reference.__name__


def checker(*exercises):
    """The `check(function)` of a topic: finds the exercise by the function's name and checks it."""
    by_name = {exercise.name: exercise for exercise in exercises}

    def check(function):
        """Check a student's function; return it if it is right, or the reference if it was not attempted.

        WrongAnswerError, with a printed hint, if it is wrong. An error inside the function comes out as it is.
        """
        __tracebackhide__ = True
        name = getattr(function, "__name__", None)
        if name not in by_name:
            raise TypeError(f"check() takes one of these functions: {', '.join(by_name)}; got {function!r:.80}")
        return run(by_name[name], function)

    check.exercises = exercises
    return check


def run(exercise, function):
    """Check one function against its exercise: see `checker`."""
    __tracebackhide__ = True
    case = None
    try:
        found = []
        for case in exercise.cases():
            found.append(_call(exercise, function, case))
        _compare_all(exercise, found)
        case = None
        for rule in exercise.rules:
            problem = rule(function)
            if problem:
                _fail(exercise, problem)
    except NotImplementedError:
        return _not_attempted(exercise)
    except WrongAnswerError:
        raise
    except Exception as error:
        _explain(exercise, error, case)
        raise
    print(f"{exercise.name}: right.{_how_close(exercise, found)}")
    return function


def _not_attempted(exercise):
    """Go on with the reference; but not while a grader counts points."""
    if os.environ.get(GRADING):
        raise WrongAnswerError(f"{exercise.name}: not attempted")
    print(f"{exercise.name}: not attempted; going on with the reference.")
    return exercise.reference


def _call(exercise, function, case):
    """The results of a student's function on one case, as a tuple."""
    __tracebackhide__ = True
    given = copy.deepcopy(case)
    results = function(*given.values())
    if results is None:
        _fail(exercise, "it returned nothing. Is the `return` missing?")
    for name, value in case.items():
        if not _same(given[name], value):
            _fail(exercise, f"it changed its argument `{name}`. Compute a new array (`a = a + b`, not `a += b`).")
    if len(exercise.results) == 1:
        return (results,)
    if not isinstance(results, tuple) or len(results) != len(exercise.results):
        _fail(exercise, f"it should return {len(exercise.results)} things: {', '.join(exercise.results)}.")
    return results


def _expected(exercise, case):
    """What the reference gives for a case, computed in float64, as a tuple."""
    results = exercise.reference(*(_float64(value) for value in copy.deepcopy(case).values()))
    return results if len(exercise.results) > 1 else (results,)


def _float64(value):
    """A float array in float64; anything else as it is."""
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _tolerance(exercise, case):
    """The case's tolerance: float32 arguments allow no better than float32 results."""
    single = any(isinstance(value, np.ndarray) and value.dtype == np.float32 for value in case.values())
    return max(exercise.tolerance, 1e-4 if single else 0.0)


def difference(found, expected, tolerance):
    """None if `found` is as expected; otherwise a sentence that says how it differs.

    Numbers and arrays are compared in shape and values, everything else with ==. NaN and infinity are right where they
    are expected.
    """
    if not _is_numeric(expected):
        return None if found == expected else _other_value(found, expected)
    expected = np.asarray(expected)
    if not _is_numeric(found):
        return f"it is {_describe(found)}; it should be an array of shape {expected.shape}"
    found = np.asarray(found)
    if found.shape != expected.shape:
        return f"its shape is {found.shape}; it should be {expected.shape}"
    with np.errstate(invalid="ignore"):  # ∞ - ∞
        off = np.abs(found - expected)
    as_expected = (found == expected) | (np.isnan(found) & np.isnan(expected))
    wrong = ~(as_expected | (off <= tolerance * (1 + np.abs(expected))))  # so that NaN counts as wrong
    if not wrong.any():
        return None
    if np.isnan(found).any():
        return "it has entries that are not numbers (NaN)"
    if not off.shape:
        return f"it is {_number(found)}; it should be {_number(expected)}"
    at = np.unravel_index(np.argmax(np.where(wrong, off, -1)), off.shape)
    return (
        f"the largest difference is {off[at]:.3g} at index {tuple(map(int, at))}: {found[at]:.6g}, which should be "
        f"{expected[at]:.6g} ({int(wrong.sum())} of {wrong.size} entries differ)"
    )


def _number(x):
    """A whole number in full, another with six digits."""
    return f"{x}" if x.dtype.kind in "iu" else f"{x:.6g}"


def _other_value(found, expected):
    """How something that is not numeric differs; of two lists only what one of them has."""
    if not (isinstance(found, list) and isinstance(expected, list)):
        return f"it is {found!r:.200}; it should be {expected!r:.200}"
    missing = [x for x in expected if x not in found]
    extra = [x for x in found if x not in expected]
    if not missing and not extra:
        return f"it is {found!r:.200}: the right entries, but in another order, or one of them twice"
    parts = [f"it lacks {missing!r:.200}"] if missing else []
    return "; ".join(parts + ([f"it should not have {extra!r:.200}"] if extra else []))


def _is_numeric(value):
    """Is it a number or an array of numbers? Truth values are compared as such."""
    if isinstance(value, (bool, np.bool_, str)):
        return False
    return isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _compare_all(exercise, found):
    """A WrongAnswerError for the first result that is wrong in any case, with the hint of the mistake that gives it."""
    __tracebackhide__ = True
    cases = exercise.cases()
    for i, name in enumerate(exercise.results):
        for case, results in zip(cases, found, strict=True):
            expected = _expected(exercise, case)
            problem = difference(results[i], expected[i], _tolerance(exercise, case))
            if problem:
                hint = _hint(exercise, i, cases, found) or _general_hint(results[i], expected[i])
                _fail(exercise, f"{name}: {problem}.", hint, case)


def _hint(exercise, i, cases, found):
    """The hint of the mistake that gives result i as it was found, in every case; None if no known one does."""
    for mistake in exercise.mistakes:
        if all(_gives(exercise, mistake, i, case, results[i]) for case, results in zip(cases, found, strict=True)):
            return mistake.hint
    return None


def _gives(exercise, mistake, i, case, found):
    """Does the mistake, made on this case, give this result i?"""
    try:
        with np.errstate(all="ignore"):
            results = mistake.function(*(_float64(value) for value in copy.deepcopy(case).values()))
    except (ValueError, IndexError):  # the mistake fits only some shapes
        return False
    result = results[i] if len(exercise.results) > 1 else results
    return difference(found, result, _tolerance(exercise, case)) is None


def _general_hint(found, expected):
    """What can be said about a wrong array without knowing the exercise: a transpose, a factor, a source of NaN."""
    if not (_is_numeric(found) and _is_numeric(expected)):
        return None
    found, expected = np.asarray(found), np.asarray(expected)
    if np.isnan(found).any():
        return "NaN comes from 0/0, ∞ - ∞, 0 · ∞, or the root or logarithm of a negative number."
    if found.ndim == 2 and found.shape == expected.T.shape and np.allclose(found.T, expected):
        return "it is the transpose of what it should be."
    if found.shape != expected.shape and _longer_axes(found) == _longer_axes(expected):
        return "only an axis of length 1 is too many or missing: a matter of keepdims, or of reshape."
    if found.shape == expected.shape and np.any(expected):
        factor = float((found * expected).sum() / (expected * expected).sum())
        if abs(factor) > 1e-12 and np.allclose(found, factor * expected) and (found.size > 1 or _is_round(factor)):
            wrong_sign = "it has the wrong sign."
            return wrong_sign if np.isclose(factor, -1) else f"it is {factor:.6g} times what it should be."
    return None


def _longer_axes(array):
    """The lengths of an array's axes without those of length 1."""
    return [length for length in array.shape if length > 1]


def _is_round(factor):
    """Is it a whole number, or 1 over one? Of two numbers the one is always some multiple of the other."""
    larger = max(abs(factor), 1 / abs(factor))
    return larger < 1000 and np.isclose(larger, round(larger), rtol=1e-9)


def _fail(exercise, problem, hint=None, case=None):
    """Print what is wrong and raise the WrongAnswerError."""
    __tracebackhide__ = True
    print(f"{exercise.name}: not right yet.\n  {problem}")
    if hint:
        print(f"  Hint: {hint}")
    if case:
        print(f"  It was called with {_arguments(case)}.")
    raise WrongAnswerError(f"{exercise.name}: {hint or problem}")


def _explain(exercise, error, case):
    """Print in which line of the student's function an error arose, and what such an error usually means."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.name == exercise.name]
    line = own[-1].line if own else ""
    where = f" at `{line}`" if line else ""
    print(f"{exercise.name}: your function stopped{where} with {type(error).__name__}: {error}")
    if case and own and frames[-1].filename == own[-1].filename and (frames[-1].line or "").startswith("raise"):
        hint = "your own `raise` stopped it; with these arguments there should be a result."
    else:
        hint = _usual_cause(error, line or "", case)
    if hint:
        print(f"  Hint: {hint}")
    if case:
        print(f"  It was called with {_arguments(case)}.")


def _usual_cause(error, line, case):
    """What an error of this kind, in this line, mostly means; None if there is nothing to say."""
    text = str(error)
    if isinstance(error, NameError):
        return "is the name spelled as in the cell above, and has the cell with the imports been run?"
    if isinstance(error, IndexError):
        return "indices run from 0 to the length minus 1; x[:i] takes the first i."
    if isinstance(error, KeyError):
        return "the dict has no entry of that name, or not yet."
    if isinstance(error, AttributeError) and "'dict'" in text:
        return 'an entry of a dict is taken with brackets: d["name"].'
    if not isinstance(error, ValueError):
        return None
    if "truth value" in text:
        return "an array is no truth value: ask `x is None`, or .any() or .all() of its entries."
    shapes = re.search(r"shapes \((\d+),(\d+)\) \((\d+),(\d+)\)", text)
    if shapes and shapes.group(1, 2) == shapes.group(4, 3):
        return "the two shapes are each other's transpose: a transpose is missing, or there is one too many."
    lost = re.search(r"shapes \((\d+),\d+\) \((\d+),\)", text)
    if lost and lost[1] == lost[2]:
        return "one number for each row needs shape (rows, 1) to meet the rows: keepdims=True keeps the axis."
    deep = any(isinstance(value, np.ndarray) and value.ndim > 2 for value in (case or {}).values())
    if deep and ".T" in line:
        return "`.T` turns all axes round. With three axes, use swapaxes(-1, -2), or make rows first: reshape(-1, n)."
    return "print the shapes just before that line, and compare them with the docstring's."


def _arguments(case):
    """The arguments in words: shapes of arrays, other values as they are."""
    return ", ".join(f"{name} {_describe(value)}" for name, value in case.items())


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"{value.shape}"
    if isinstance(value, (int, float, str, bool)):
        return f"= {value!r:.60}"
    return (
        f"= {value!r}" if isinstance(value, (list, tuple)) and len(repr(value)) < 100 else f"a {type(value).__name__}"
    )


def _same(a, b):
    """Are two arguments equal, arrays entry by entry? Other objects than plain values are not looked into."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return not isinstance(b, (int, float, str, list, tuple, dict)) or a == b


def _how_close(exercise, found):
    """In words, how near the results came to the reference and to finite differences."""
    pairs = [
        (result, expected)
        for case, results in zip(exercise.cases(), found, strict=True)
        for result, expected in zip(results, _expected(exercise, case), strict=True)
        if _is_numeric(expected)
    ]
    text = ""
    if pairs:
        worst = max(float(np.abs(np.asarray(a) - b).max(initial=0)) for a, b in pairs)
        text = f" Largest difference from the reference: {worst:.1e}"
    if exercise.gradients:
        text = f"\n {text}; from finite differences: {from_finite_differences(exercise, found[0]):.1e}"
    return f"{text}." if text else ""


def from_finite_differences(exercise, results):
    """The largest difference between a gradient in `results`, those of the first case, and central differences."""
    case, gradients = exercise.cases()[0], exercise.gradients
    by_name = dict(zip(exercise.results, results, strict=True))
    cotangent = 1.0 if gradients.cotangent is None else case[gradients.cotangent]
    taken = gradients.forward.__code__.co_varnames[: gradients.forward.__code__.co_argcount]
    arguments = {name: case[name] for name in taken}
    return max(
        float(np.abs(by_name[result] - finite_differences(gradients.forward, arguments, name, cotangent)).max())
        for result, name in gradients.of.items()
    )


def finite_differences(forward, arguments, name, cotangent, eps=1e-6):
    """The gradient of Σ cotangent ∘ forward(**arguments) for one array among the arguments, by central differences."""
    array = arguments[name].astype(np.float64)
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        sums = []
        for step in (eps, -eps):
            moved = array.copy()
            moved[index] += step
            sums.append(float(np.sum(cotangent * forward(**{**arguments, name: moved}))))
        gradient[index] = (sums[0] - sums[1]) / (2 * eps)
    return gradient
