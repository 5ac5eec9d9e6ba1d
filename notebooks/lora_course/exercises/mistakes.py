"""Usual mistakes, alone and two at a time: which of them give what a student's function gave?

An exercise has a plain solution, and its mistakes are edits of that text: `Edit(hint, {old: new})`. So each mistake can
be read as the code that a student writes, and two edits at different places make a function with both mistakes. What is
no small change of that text, such as a walk in another order, is a `Mistake(hint, function)`.
"""

import copy
import dataclasses
import functools
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable

import numpy as np

from .comparing import difference


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A usual mistake: `function` gives what the exercise's function would give with it, `hint` what to say then."""

    hint: str
    function: Callable


@dataclasses.dataclass(frozen=True)
class Edit:
    """A usual mistake as a change of the plain solution: {text found exactly once in it: what stands there instead}."""

    hint: str
    changes: dict


class Variants:
    """The plain solution of an exercise with mistakes in it, made by need and kept.

    plain: a function or class; edits: `Edit`s of its text. ValueError for an edit whose text is not found exactly once.
    """

    def __init__(self, plain, edits):
        self.plain, self.edits = plain, tuple(edits)
        self.source = textwrap.dedent(inspect.getsource(plain))
        self.spans = [self._spans(edit) for edit in self.edits]

    def _spans(self, edit):
        """[(begin, end, new text)] of an edit."""
        for old in edit.changes:
            if self.source.count(old) != 1:
                raise ValueError(f"{old!r} is {self.source.count(old)} times in {self.plain.__name__}, not once")
        begins = {old: self.source.index(old) for old in edit.changes}
        return [(begins[old], begins[old] + len(old), new) for old, new in edit.changes.items()]

    def function(self, *chosen):
        """The solution with the edits of these numbers; None where two of them change the same place."""
        spans = sorted(span for number in chosen for span in self.spans[number])
        if any(first[1] > second[0] for first, second in itertools.pairwise(spans)):
            return None
        text = self.source
        for begin, end, new in reversed(spans):
            text = text[:begin] + new + text[end:]
        names = dict(vars(sys.modules[self.plain.__module__]))
        exec(compile(text, f"<{self.plain.__name__} with {chosen}>", "exec"), names)
        return names[self.plain.__name__]


def float64(value):
    """A float array in float64; anything else as it is."""
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def tolerance(exercise, case):
    """The case's tolerance: float32 arguments allow no better than float32 results."""
    single = any(isinstance(value, np.ndarray) and value.dtype == np.float32 for value in case.values())
    return max(exercise.tolerance, 1e-4 if single else 0.0)


class Suspects:
    """All known mistakes of an exercise, and what each of them gives on its cases."""

    def __init__(self, exercise):
        self.exercise, self.cases = exercise, exercise.cases()
        self.variants = Variants(exercise.plain, exercise.edits) if exercise.plain else None
        self.outcome = functools.cache(self._outcome)

    def groups(self):
        """Sets of mistakes: first each by itself, then two edits at a time."""
        numbers = range(len(self.variants.edits)) if self.variants else ()
        yield [(mistake,) for mistake in self.exercise.mistakes] + [(number,) for number in numbers]
        yield [pair for pair in itertools.combinations(numbers, 2) if self._function(pair)]

    def hints(self, group):
        """What there is to say about a set of mistakes."""
        found = [one.hint if isinstance(one, Mistake) else self.variants.edits[one].hint for one in group]
        return tuple(dict.fromkeys(found))

    @functools.cache  # noqa: B019  (one object for each exercise, for good)
    def _function(self, group):
        return group[0].function if isinstance(group[0], Mistake) else self.variants.function(*group)

    def _outcome(self, group, i):
        """The results of a set of mistakes on case i, as a tuple; or the exception that it raises."""
        try:
            with np.errstate(all="ignore"):
                arguments = (float64(v) for v in copy.deepcopy(self.cases[i]).values())
                results = self.exercise.call(self._function(group), *arguments)
        except Exception as error:
            return error
        return results if len(self.exercise.results) > 1 else (results,)

    def fits(self, group, found, which):
        """Does this set of mistakes give, in every case, the results with the numbers `which`?"""
        return all(self._fits_case(group, i, results, which) for i, results in enumerate(found))

    def _fits_case(self, group, i, results, which):
        outcome = self.outcome(group, i)
        if isinstance(outcome, Exception) or len(outcome) != len(results):
            return False
        allowed = tolerance(self.exercise, self.cases[i])
        return all(difference(results[k], outcome[k], allowed) is None for k in which)

    def smallest(self, found, which):
        """The hints of the first smallest set of mistakes that gives these results; None if none does."""
        for groups in self.groups():
            for group in groups:
                if self.fits(group, found, which):
                    return self.hints(group)
        return None

    def explain(self, found, wrong):
        """(hints, numbers of the results that stay unexplained). `wrong` are the numbers of those that are wrong.

        First one set of mistakes for all results together; then one for each wrong result by itself.
        """
        together = self.smallest(found, range(len(self.exercise.results)))
        if together:
            return together, []
        each = {k: self.smallest(found, [k]) for k in wrong}
        hints = dict.fromkeys(hint for some in each.values() for hint in some or ())
        return tuple(hints), [k for k in wrong if not each[k]]

    def raising(self, error, i, line):
        """The hint of the mistake that raises the same error on case i; where several do, of the one written alike."""
        fits = [group for group in next(self.groups()) if self._raises(group, error, i)]
        squeezed = "".join(line.split())
        written = [group for group in fits if squeezed and any(new in squeezed for new in self._written(group))]
        return self.hints((written or fits)[0])[0] if fits else None

    def _raises(self, group, error, i):
        """The same kind of error with the same words (which hold the sizes)?"""
        outcome = self.outcome(group, i)
        return type(outcome) is type(error) and str(outcome) == str(error)

    def _written(self, group):
        """The new texts of a set of edits, without blanks."""
        edits = [self.variants.edits[one] for one in group if not isinstance(one, Mistake)]
        return ["".join(new.split()) for edit in edits for new in edit.changes.values() if new.strip()]


@functools.cache
def suspects(exercise):
    """The `Suspects` of an exercise, made once."""
    return Suspects(exercise)
