"""At least 200 seeded mistakes of students, one and two at a time: at least 95% are caught and named."""

import contextlib
import copy
import importlib
import io
import itertools
import linecache
import re

import numpy as np
import pytest
from exercise_helpers import BEGIN, NOTEBOOKS, code_cells
from student_mistakes import BY_HAND, by_rule

from lora_course.exercises.checking import difference


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """The capstone's runs are short ones."""
    monkeypatch.setenv("LORA_NP_BUDGET", "small")


GENERAL = "print the shapes just before that line"


def cells():
    """(check, names, cell's source, function's name) for every solution in the notebooks."""
    for path in sorted((NOTEBOOKS / "solutions").glob("[01][0-9]_*.ipynb")):
        topic, sources = importlib.import_module(f"lora_course.exercises.{path.stem[3:]}"), code_cells(path)
        names = {}
        exec(sources[0], names)
        for source in sources:
            if BEGIN in source:
                exec(source, names)
                name = re.search(r"^(?:def|class) (\w+)", source, re.MULTILINE)[1]
                yield topic.check, dict(names), source, name


CELLS = list(cells())


def made(names, source, name):
    names = dict(names)
    file = f"<student's {name} {len(linecache.cache)}>"  # known to linecache, as the cells of a notebook are
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    exec(compile(source, file, "exec"), names)
    return names[name]


def _other(value, rng):
    """Other numbers in the place of a float array."""
    return rng.random(value.shape) + 0.1 if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def is_the_same(exercise, function):
    """Does it give the reference's results for other numbers of the same shapes? Then the change is no mistake."""
    rng = np.random.default_rng(99)
    for case in exercise.cases():
        case = {
            n: rng.random(v.shape) + 0.1 if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
            for n, v in case.items()
        }
        try:
            with np.errstate(all="ignore"):
                found, right = (exercise.call(f, *copy.deepcopy(case).values()) for f in (function, exercise.reference))
        except Exception:
            return False
        pairs = (
            zip(found, right, strict=False)
            if len(exercise.results) > 1 and isinstance(found, tuple)
            else [(found, right)]
        )
        if type(found) is not type(right) and isinstance(found, (list, type(None))):
            return False
        if any(difference(a, b, 1e-8) for a, b in pairs):
            return False
    return bool(exercise.cases())


def told(check, function):
    """(was it caught?, what was printed)."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), np.errstate(all="ignore"):
        try:
            check(function)
        except Exception:
            return True, printed.getvalue()
    return False, printed.getvalue()


def single():
    for check, names, source, name in CELLS:
        (exercise,) = (e for e in check.exercises if e.name == name)
        for old, new, words in BY_HAND.get(name, ()):
            assert source.count(old) >= 1, (name, old)
            text = source.replace(old, new, 1)
            yield check, made(names, text, name), words, text
        for text, words in by_rule(source):
            function = made(names, text, name)
            if not is_the_same(exercise, function):
                yield check, function, words, text


def pairs():
    """Two changes by hand at once, where both places are still there: (check, function, (words, words), source).

    Not where rules alone look at a function: they tell what shows first.
    """
    for check, names, source, name in CELLS:
        if not any(exercise.plain for exercise in check.exercises if exercise.name == name):
            continue
        for (old, new, words), (other, another, more) in itertools.combinations(BY_HAND.get(name, ()), 2):
            once = source.replace(old, new, 1)
            overlap = old in other or other in old or source.count(old) + source.count(other) > 2
            if not overlap and other in once:
                text = once.replace(other, another, 1)
                yield check, made(names, text, name), (words, more), text


def is_named(text, words):
    """Does what was said, errors' own words left out, hold one of the words, and more than the general hint?"""
    said = text.split("\n", 1)[-1]
    return GENERAL not in said and re.search(words, said) is not None


def test_at_least_95_percent_of_200_mistakes_are_caught_and_named():
    rows = [(words, *told(check, function)) for check, function, words, _ in single()]
    named = [caught and is_named(text, words) for words, caught, text in rows]
    assert all(caught for _, caught, _ in rows)
    print(f"{len(rows)} mistakes, {sum(named)} named")
    assert len(rows) >= 200
    assert sum(named) >= 0.95 * len(rows)


def test_of_two_mistakes_at_once_both_are_named():
    """Where the function stops with an error, only the line that it reached can be spoken of: one is enough there."""
    rows = [(words, *told(check, function)) for check, function, words, _ in pairs()]
    assert all(caught for _, caught, _ in rows)
    stopped = ["your function stopped" in text for _, _, text in rows]
    named = [[is_named(text, one) for one in words] for words, _, text in rows]
    both = [any(names) if stop else all(names) for names, stop in zip(named, stopped, strict=True)]
    print(f"{len(rows)} pairs, {sum(stopped)} stop with an error; {sum(both)} named")
    assert len(rows) >= 100
    assert sum(both) >= 0.8 * len(rows)
