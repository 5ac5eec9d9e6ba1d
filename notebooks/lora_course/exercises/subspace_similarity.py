"""Exercise 12: how much of one adapter's subspace lies in another's."""

import numpy as np

from lora_np.lora import analysis

from .checking import Exercise, Mistake, checker


def subspace_similarity(A1, A2, i, j):
    """φ = ‖U_iᵀ U_j‖²_F / min(i, j): from 0, at right angles, to 1, where one subspace lies within the other.

    U_i are the first i right-singular vectors of A1 (r1, n), U_j the first j of A2 (r2, n).
    """
    return analysis.subspace_similarity(A1, A2, i, j)


def cases():
    """Two adapters of one rank that share some directions; i and j in either order, and equal."""
    rng = np.random.default_rng(12)
    shared = rng.standard_normal((2, 9))
    A1, A2 = (rng.standard_normal((4, 2)) @ shared + 0.3 * rng.standard_normal((4, 9)) for _ in range(2))
    return [{"A1": A1, "A2": A2, "i": i, "j": j} for i, j in [(2, 3), (3, 1), (2, 2), (1, 4)]]


def _directions(A, i):
    return np.linalg.svd(A, full_matrices=False)[2][:i]


def _phi(directions=_directions, over=min, size=lambda cosines: (cosines**2).sum()):
    """φ with other directions (rows of unit length), another divisor, or another measure of the products."""
    return lambda A1, A2, i, j: size(directions(A1, i) @ directions(A2, j).T) / over(i, j)


def _of_length_1(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _smaller_rank(A1, A2, i, j):
    return _phi(over=lambda i, j: 1)(A1, A2, i, j) / min(len(A1), len(A2))


MISTAKES = (
    Mistake("it is divided by the larger of i and j; it should be the smaller.", _phi(over=max)),
    Mistake("it is divided by i · j; it should be the smaller of the two.", _phi(over=lambda i, j: i * j)),
    Mistake("it is still to be divided by the smaller of i and j.", _phi(over=lambda i, j: 1)),
    Mistake("the norm is to be squared.", _phi(size=np.linalg.norm)),
    Mistake(
        "the norm is that of Frobenius, the root of the sum of all squares.",
        _phi(size=lambda c: np.linalg.norm(c, 2) ** 2),
    ),
    Mistake("the products are to be squared and added up, not their sizes.", _phi(size=lambda c: np.abs(c).sum())),
    Mistake(
        "these are left-singular vectors, with r numbers each; the right ones have n, like an input.",
        _phi(lambda A, i: np.linalg.svd(A, full_matrices=False)[0][:, :i].T),
    ),
    Mistake(
        "these are rows of the left-singular vectors. The directions are rows of the third result, Vᵀ.",
        _phi(lambda A, i: np.linalg.svd(A, full_matrices=False)[0][:i]),
    ),
    Mistake("one direction too few is taken: the first i are Vt[:i].", _phi(lambda A, i: _directions(A, i - 1))),
    Mistake(
        "all directions are taken; φ(i, j) is about the first i and the first j.",
        _phi(lambda A, i: _directions(A, len(A))),
    ),
    Mistake("it is divided by the smaller rank; it should be the smaller of i and j.", _smaller_rank),
    Mistake(
        "the squares of the diagonal alone are added up; it is those of all entries.",
        _phi(size=lambda c: (np.diag(c) ** 2).sum()),
    ),
    Mistake(
        "NumPy returns Vᵀ: the right-singular vectors are its rows, the first i of them Vt[:i].",
        _phi(lambda A, i: np.linalg.svd(A, full_matrices=False)[2][:, :i].T),
    ),
    Mistake(
        "the last directions are taken; the first are the important ones.",
        _phi(lambda A, i: _directions(A, len(A))[-i:]),
    ),
    Mistake(
        "these are rows of A scaled to length 1; they are not at right angles. Take singular vectors.",
        _phi(lambda A, i: _of_length_1(A[:i])),
    ),
    Mistake("these are rows of A as they stand; take its singular vectors.", _phi(lambda A, i: A[:i])),
    Mistake(
        "the directions are weighted with the singular values; φ compares directions alone.",
        _phi(lambda A, i: np.linalg.svd(A, full_matrices=False)[1][:i, None] * _directions(A, i)),
    ),
)


def different_ranks(function):
    """None, or a sentence if it fails for two adapters of different ranks."""
    rng = np.random.default_rng(13)
    A1, A2 = rng.standard_normal((3, 8)), rng.standard_normal((5, 8))
    found, expected = function(A1, A2, 2, 4), subspace_similarity(A1, A2, 2, 4)
    return None if np.isclose(found, expected) else "right for adapters of one rank, but not where the ranks differ."


check = checker(
    Exercise(subspace_similarity, cases, results=("φ",), mistakes=MISTAKES, rules=(different_ranks,)),
)
