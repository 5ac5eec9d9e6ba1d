"""What is said when a student's function stops with an error."""

import re
import traceback

import numpy as np

from .comparing import arguments
from .mistakes import suspects

NONE = "None stands where there should be a value: a function that ends without `return` gives None."


def explain(exercise, error, case=None, number=None):
    """Print in which line of the student's function an error arose, and what such an error usually means.

    case, number: the arguments it was called with, and which of the exercise's cases they are; None in a rule.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.name in (exercise.name, *exercise.methods)]
    line = (own[-1].line or "") if own else ""
    where = f" at `{line}`" if line else ""
    print(f"{exercise.name}: your function stopped{where} with {type(error).__name__}: {error}")
    hint = _hint(exercise, error, line, case, number, frames[-1] if own else None, own[-1] if own else None)
    if hint:
        print(f"  Hint: {hint}")
    if case:
        print(f"  It was called with {arguments(case)}.")


def _hint(exercise, error, line, case, number, last, own):
    """The hint of a known mistake that raises the same error, or what errors of its kind mostly mean."""
    if case and own and last.filename == own.filename and (last.line or "").startswith("raise"):
        return "your own `raise` stopped it; with these arguments there should be a result."
    known = suspects(exercise).raising(error, number, line) if case else None
    return known or usual_cause(error, line, case)


def usual_cause(error, line, case):
    """What an error of this kind, in this line, mostly means; None if there is nothing to say."""
    text = str(error)
    if isinstance(error, UnboundLocalError):
        return "the name is used before it is given a value: is a line missing above, or in the wrong order?"
    if isinstance(error, NameError):
        return "is the name spelled as in the cell above, and has the cell with the imports been run?"
    if isinstance(error, IndexError):
        return "indices run from 0 to the length minus 1; x[:i] takes the first i."
    if isinstance(error, KeyError):
        return "the dict has no entry of that name, or not yet."
    if isinstance(error, TypeError) and "'NoneType'" in text:
        return NONE
    if isinstance(error, AttributeError):
        return _of_attributes(text)
    if isinstance(error, RecursionError):
        return "it calls itself for every node of a long chain: use a loop with a list of what is still to be done."
    return _of_shapes(text, line, case) if isinstance(error, ValueError) else None


def _of_attributes(text):
    """What an AttributeError means."""
    if "'dict'" in text:
        return 'an entry of a dict is taken with brackets: d["name"].'
    if "'NoneType'" in text:
        return NONE
    if "'list'" in text or "'tuple'" in text:
        return "a list or tuple stands where one object should: leave the brackets out, or take one of its entries."
    if "'numpy.ndarray' object has no attribute 'value'" in text:
        return "a NumPy array stands where the engine's Array should: Array(...) remembers what it was made from."
    return (
        "is it spelled so, and was it given a value: self.name = ... in __init__?" if "object has no" in text else None
    )


def _of_shapes(text, line, case):
    """What a ValueError, mostly of shapes, means."""
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
