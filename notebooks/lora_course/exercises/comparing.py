"""How a result differs from the right one, in words, and what can be said of it without knowing the exercise."""

import numpy as np


def difference(found, expected, tolerance):
    """None if `found` is as expected; otherwise a sentence that says how it differs.

    Numbers and arrays are compared in shape and values, dicts entry by entry, everything else with ==. NaN and
    infinity are right where they are expected.
    """
    if isinstance(expected, dict):
        return _of_dicts(found, expected, tolerance)
    if not is_numeric(expected):
        return None if found == expected else _other_value(found, expected)
    expected = np.asarray(expected)
    if not is_numeric(found):
        return f"it is {describe(found)}; it should be an array of shape {expected.shape}"
    found = np.asarray(found)
    if found.shape != expected.shape:
        return f"its shape is {found.shape}; it should be {expected.shape}"
    return _of_arrays(found, expected, tolerance)


def _of_arrays(found, expected, tolerance):
    """How two arrays of one shape differ."""
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


def _of_dicts(found, expected, tolerance):
    """How two dicts differ: in their names, or in the first entry that differs."""
    if not isinstance(found, dict):
        return f"it is {describe(found)}; it should be a dict"
    missing, extra = ([k for k in a if k not in b] for a, b in ((expected, found), (found, expected)))
    if missing or extra:
        parts = [f"it lacks {missing!r:.200}"] if missing else []
        return "; ".join(parts + ([f"it should not have {extra!r:.200}"] if extra else []))
    problems = {name: difference(found[name], value, tolerance) for name, value in expected.items()}
    return next((f"entry {name!r}: {problem}" for name, problem in problems.items() if problem), None)


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


def is_numeric(value):
    """Is it a number or an array of numbers? Truth values are compared as such."""
    if isinstance(value, (bool, np.bool_, str)):
        return False
    return isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def general_hint(found, expected):
    """What can be said about a wrong array without knowing the exercise, or None.

    A transpose, a factor, an axis, whole numbers where there should be others, a source of NaN.
    """
    if not (is_numeric(found) and is_numeric(expected)):
        return _of_kinds(found, expected)
    found, expected = np.asarray(found), np.asarray(expected)
    if np.isnan(found).any():
        return "NaN comes from 0/0, ∞ - ∞, 0 · ∞, or the root or logarithm of a negative number."
    return _of_shapes(found, expected) or _of_numbers(found, expected)


def _of_kinds(found, expected):
    """A set or a tuple where a list should be, a list where there should be an array or a number."""
    if is_numeric(expected) and isinstance(found, (list, tuple)):
        return f"it is a {type(found).__name__}: leave the brackets out, or make an array of it."
    if isinstance(expected, list) and isinstance(found, (set, tuple)):
        return f"it is a {type(found).__name__}; it should be a list."
    return None


def _of_shapes(found, expected):
    """A transpose, an axis too many or too few, a row and a column that were broadcast."""
    if found.ndim == 2 and found.shape == expected.T.shape and np.allclose(found.T, expected):
        return "it is the transpose of what it should be."
    if found.shape == expected.shape:
        return None
    if _longer_axes(found) == _longer_axes(expected):
        return "only an axis of length 1 is too many or missing: a matter of keepdims, or of reshape."
    if found.ndim > expected.ndim == 1 and found.shape == expected.shape * 2:
        return "a column and a row met, and broadcasting made all pairs: keepdims, or give both the same shape."
    return None


def _of_numbers(found, expected):
    """Rounded entries, whole numbers, a sign, a factor."""
    if found.shape != expected.shape or not np.any(expected):
        return None
    close = np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    if close and found.dtype == np.float64 and np.abs(found - expected).max() > 0:
        return "it is right to about seven digits: something on the way was rounded to float32."
    if found.dtype in (np.float32, np.float16) and np.allclose(found, expected, rtol=1e-2, atol=1e-2):
        return f"it is rounded to {found.dtype}: keep the type of the arguments."
    if found.dtype.kind in "iu" and np.abs(found - expected).max() <= 1:
        return "its entries are whole numbers: an array of dtype int, or //, cuts off the rest."
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


def describe(value):
    """A value in a few words: the shape of an array, a short value itself, else its type."""
    if isinstance(value, np.ndarray):
        return f"{value.shape}"
    if isinstance(value, (int, float, str, bool)):
        return f"= {value!r:.60}"
    short = isinstance(value, (list, tuple)) and len(repr(value)) < 100
    return f"= {value!r}" if short else f"a {type(value).__name__}"


def arguments(case):
    """The arguments in words: shapes of arrays, other values as they are."""
    return ", ".join(f"{name} {describe(value)}" for name, value in case.items())


def same(a, b):
    """Are two arguments equal, arrays entry by entry? Other objects than plain values are not looked into."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return not isinstance(b, (int, float, str, list, tuple, dict)) or a == b
