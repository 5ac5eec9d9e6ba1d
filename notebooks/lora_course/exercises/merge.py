"""Exercise 08: the update put into the weight and taken out again, also where the weight is stored transposed."""

import numpy as np

from .checking import Edit, Exercise, checker


def merge(W, A, B, alpha, conv1d):
    """W + (alpha / r) B A; with conv1d, W is (in, out) and the update is transposed. A (r, in), B (out, r)."""
    return W + _delta(A, B, alpha / len(A), conv1d)


def unmerge(merged, A, B, alpha, conv1d):
    """The weight that `merge` was given, up to rounding."""
    return merged - _delta(A, B, alpha / len(A), conv1d)


def _delta(A, B, s, conv1d):
    return s * (A.T @ B.T if conv1d else B @ A)


def _cases(first, seed):
    """A weight (out, in), and a square one stored as (in, out): there, a missing transpose raises no error."""
    rng = np.random.default_rng(seed)
    return [
        {
            first: rng.standard_normal((n_in, n_out) if conv1d else (n_out, n_in)),
            "A": rng.standard_normal((r, n_in)),
            "B": rng.standard_normal((n_out, r)),
            "alpha": alpha,
            "conv1d": conv1d,
        }
        for n_in, n_out, r, alpha, conv1d in [(7, 5, 3, 16.0, False), (6, 6, 2, 8.0, True)]
    ]


def _wide_conv1d(reference):
    """The rule that a Conv1D that is not square works too."""

    def rule(function):
        rng = np.random.default_rng(0)
        case = *map(rng.standard_normal, ((4, 9), (2, 4), (9, 2))), 8.0, True
        found, expected = function(*case), reference(*case)
        if np.shape(found) == expected.shape and np.allclose(found, expected):
            return None
        return "it is right for a square weight, and wrong for a Conv1D with 4 inputs and 9 outputs."

    return rule


def merge_cases():
    """Arguments for `merge`."""
    return _cases("W", 8)


def unmerge_cases():
    """Arguments for `unmerge`."""
    return _cases("merged", 9)


def plain_merge(W, A, B, alpha, conv1d):
    """`merge`, for the edits."""
    s = alpha / A.shape[0]
    delta = s * (B @ A)
    if conv1d:
        delta = delta.T
    return W + delta


def plain_unmerge(merged, A, B, alpha, conv1d):
    """`unmerge`, for the edits."""
    s = alpha / A.shape[0]
    delta = s * (B @ A)
    if conv1d:
        delta = delta.T
    return merged - delta


def _edits(last, minus):
    """The usual ones as edits; `last` is the last line's expression, `minus` the one with the wrong sign."""
    weight = last.split()[0]
    sign = "subtracted where it should be added" if minus.count("-") else "added where it should be subtracted"
    return (
        Edit("A and B are multiplied as A B; the update is B A.", {"(B @ A)": "(A @ B)"}),
        Edit("A has to stay as it is: B (out, r) meets A (r, in).", {"(B @ A)": "(B @ A.T)"}),
        Edit("B has to stay as it is: B (out, r) meets A (r, in).", {"(B @ A)": "(B.T @ A)"}),
        Edit("r is A's first axis: A.shape[1] is the number of inputs.", {"A.shape[0]": "A.shape[1]"}),
        Edit("r is A's first axis: B.shape[0] is the number of outputs.", {"A.shape[0]": "B.shape[0]"}),
        Edit("alpha / r is missing.", {"s * (B": "(B"}),
        Edit("the update is scaled by alpha, and not divided by the rank r.", {"alpha / A.shape[0]": "alpha"}),
        Edit("the update is scaled by r / alpha: turn it round.", {"alpha / A.shape[0]": "A.shape[0] / alpha"}),
        Edit("the update is scaled by alpha · r: divide.", {"alpha / A": "alpha * A"}),
        Edit("alpha is missing: the update is scaled by alpha / r.", {"alpha / A": "1 / A"}),
        Edit(
            "the update is scaled by alpha / √r; here it is alpha / r.",
            {"alpha / A.shape[0]": "alpha / A.shape[0] ** 0.5"},
        ),
        Edit("for conv1d = True the update is not transposed. A square W does not complain.", {"delta.T": "delta"}),
        Edit("the update is transposed where it should not be: only with conv1d.", {"if conv1d:": "if True:"}),
        Edit("conv1d is the wrong way round.", {"if conv1d:": "if not conv1d:"}),
        Edit("the result is transposed: it has the shape of the weight that was given.", {last: f"({last}).T"}),
        Edit(f"the update is {sign}.", {last: minus}),
        Edit("the update is missing.", {last: weight}),
        *(Edit("this is the update alone: the weight is missing.", {last: alone}) for alone in ("delta", "-delta")),
        Edit("the update is added, not multiplied.", {last: f"{weight} * delta"}),
    )


MERGE_HINTS = (
    "the Conv1D's weight is (in, out), and B A is (out, in).",
    "add (alpha / r) B A, and its transpose where conv1d is true.",
)

check = checker(
    Exercise(
        merge,
        merge_cases,
        ("W'",),
        rules=(_wide_conv1d(merge),),
        plain=plain_merge,
        edits=_edits("W + delta", "W - delta"),
        hints=MERGE_HINTS,
    ),
    Exercise(
        unmerge,
        unmerge_cases,
        ("W",),
        rules=(_wide_conv1d(unmerge),),
        plain=plain_unmerge,
        edits=_edits("merged - delta", "merged + delta"),
    ),
)
