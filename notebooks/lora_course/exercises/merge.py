"""Exercise 08: the update put into the weight and taken out again, also where the weight is stored transposed."""

import numpy as np

from .checking import Exercise, Mistake, checker


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


def _mistakes(sign):
    """The usual ones, for merge (sign 1) and unmerge (sign -1)."""

    def with_scale(scale):
        return lambda W, A, B, alpha, conv1d: W + sign * _delta(A, B, scale(alpha, len(A), len(B)), conv1d)

    return (
        Mistake(
            "for conv1d = True the update is not transposed. Here W is square, so nothing complained: "
            "the result has the right shape and wrong numbers.",
            lambda W, A, B, alpha, conv1d: W + sign * _delta(A, B, alpha / len(A), False),
        ),
        Mistake("alpha / r is missing.", with_scale(lambda alpha, r, out: 1)),
        Mistake(
            "the update is scaled by alpha, and not divided by the rank r.", with_scale(lambda alpha, r, out: alpha)
        ),
        Mistake("the update is scaled by r / alpha: turn it round.", with_scale(lambda alpha, r, out: r / alpha)),
        Mistake("the update is scaled by alpha · r: divide.", with_scale(lambda alpha, r, out: alpha * r)),
        Mistake(
            "the update is divided by len(B), the number of outputs: r is B's second axis and A's first.",
            with_scale(lambda alpha, r, out: alpha / out),
        ),
        Mistake(
            "the update is added where it should be subtracted." if sign < 0 else "the update is subtracted.",
            with_scale(lambda alpha, r, out: -alpha / r),
        ),
        Mistake("this is the weight as it was given: the update is missing.", with_scale(lambda alpha, r, out: 0)),
        Mistake(
            "this is the update alone: the weight is missing.",
            lambda W, A, B, alpha, conv1d: sign * _delta(A, B, alpha / len(A), conv1d),
        ),
    )


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


check = checker(
    Exercise(merge, merge_cases, ("W'",), _mistakes(1), (_wide_conv1d(merge),)),
    Exercise(unmerge, unmerge_cases, ("W",), _mistakes(-1), (_wide_conv1d(unmerge),)),
)
