"""Exercise 12: how much of one adapter's subspace lies in another's."""

import numpy as np

from lora_np.lora import analysis

from .checking import Edit, Exercise, checker


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


def different_ranks(function):
    """None, or a sentence if it fails for two adapters of different ranks."""
    rng = np.random.default_rng(13)
    A1, A2 = rng.standard_normal((3, 8)), rng.standard_normal((5, 8))
    found, expected = function(A1, A2, 2, 4), subspace_similarity(A1, A2, 2, 4)
    return None if np.isclose(found, expected) else "right for adapters of one rank, but not where the ranks differ."


def plain_similarity(A1, A2, i, j):
    """`subspace_similarity`, for the edits."""
    first = np.linalg.svd(A1, full_matrices=False)[2][:i]
    second = np.linalg.svd(A2, full_matrices=False)[2][:j]
    cosines = first @ second.T
    return np.sum(cosines**2) / min(i, j)


_FIRST, _SECOND = "np.linalg.svd(A1, full_matrices=False)[2][:i]", "np.linalg.svd(A2, full_matrices=False)[2][:j]"
EDITS = (
    Edit(
        "these are rows of the left-singular vectors. The directions are rows of the third result, Vᵀ.",
        {"[2][:i]": "[0][:i]", "[2][:j]": "[0][:j]"},
    ),
    Edit("one direction too few is taken: the first i are Vt[:i].", {"[:i]": "[: i - 1]", "[:j]": "[: j - 1]"}),
    Edit("all directions are taken; φ(i, j) is about the first i and the first j.", {"[:i]": "", "[:j]": ""}),
    Edit(
        "it is divided by the smaller rank; it should be the smaller of i and j.",
        {"min(i, j)": "min(len(A1), len(A2))"},
    ),
    Edit(
        "the squares of the diagonal alone are added up; it is those of all entries.",
        {"np.sum(cosines**2)": "np.sum(np.diag(cosines) ** 2)"},
    ),
    Edit(
        "NumPy returns Vᵀ: the right-singular vectors are its rows, the first i of them Vt[:i].",
        {"[2][:i]": "[2][:, :i].T", "[2][:j]": "[2][:, :j].T"},
    ),
    Edit("the last directions are taken; the first are the important ones.", {"[:i]": "[-i:]", "[:j]": "[-j:]"}),
    Edit(
        "these are rows of A scaled to length 1; they are not at right angles. Take singular vectors.",
        {
            _FIRST: "A1[:i] / np.linalg.norm(A1[:i], axis=1, keepdims=True)",
            _SECOND: "A2[:j] / np.linalg.norm(A2[:j], axis=1, keepdims=True)",
        },
    ),
    Edit("these are rows of A as they stand; take its singular vectors.", {_FIRST: "A1[:i]", _SECOND: "A2[:j]"}),
    Edit(
        "the directions are weighted with the singular values; φ compares directions alone.",
        {
            _FIRST: "np.linalg.svd(A1)[1][:i, None] * " + _FIRST,
            _SECOND: "np.linalg.svd(A2)[1][:j, None] * " + _SECOND,
        },
    ),
    *(
        Edit(
            "QR takes the rows in their order; singular vectors have the most important first: np.linalg.svd.",
            {f"np.linalg.svd({A}, full_matrices=False)[2]": f"np.linalg.qr({A}.T)[0].T"},
        )
        for A in ("A1", "A2")
    ),
    Edit(
        "QR takes the rows in their order; singular vectors have the most important first: np.linalg.svd.",
        {_FIRST: "np.linalg.qr(A1.T)[0].T[:i]", _SECOND: "np.linalg.qr(A2.T)[0].T[:j]"},
    ),
    Edit("the second set is not transposed: (i, n) meets (n, j).", {"second.T": "second"}),
    Edit("both sets take i directions: the second takes j.", {"[:j]": "[:i]"}),
    Edit("both sets take j directions: the first takes i.", {"[:i]": "[:j]"}),
    Edit("i and j have changed places.", {"[:i]": "[:j]", "[:j]": "[:i]"}),
    Edit("both sets of directions come from A1: the second is A2's.", {"svd(A2": "svd(A1"}),
    Edit("both sets of directions come from A2: the first is A1's.", {"svd(A1": "svd(A2"}),
    Edit("it is divided by the larger of i and j; it should be the smaller.", {"min(i, j)": "max(i, j)"}),
    Edit("it is divided by i · j; it should be the smaller of the two.", {"min(i, j)": "(i * j)"}),
    Edit("it is divided by i + j; it should be the smaller of the two.", {"min(i, j)": "(i + j)"}),
    Edit("it is divided by i; it should be the smaller of i and j.", {"min(i, j)": "i"}),
    Edit("it is divided by j; it should be the smaller of i and j.", {"min(i, j)": "j"}),
    Edit("it is multiplied by the smaller of i and j; divide.", {" / min": " * min"}),
    Edit("it is still to be divided by the smaller of i and j.", {" / min(i, j)": ""}),
    Edit("the cosines are not squared.", {"cosines**2": "cosines"}),
    Edit("the norm is to be squared.", {"np.sum(cosines**2)": "np.linalg.norm(cosines)"}),
    Edit("the products are to be squared and added up, not their sizes.", {"cosines**2": "np.abs(cosines)"}),
    Edit("it is the sum of all squares, and not their mean.", {"np.sum(": "np.mean("}),
    Edit(
        "the norm is that of Frobenius, the root of the sum of all squares.",
        {"np.sum(cosines**2)": "np.linalg.norm(cosines, 2) ** 2"},
    ),
    Edit(
        "these are left-singular vectors; the right ones have n numbers, like an input.",
        {
            _FIRST: "np.linalg.svd(A1, full_matrices=False)[0][:, :i].T",
            _SECOND: "np.linalg.svd(A2, full_matrices=False)[0][:, :j].T",
        },
    ),
    Edit(
        "NumPy returns Vᵀ: the right-singular vectors are its rows, the first i of them Vt[:i].",
        {"[2][:i]": "[2][:, :i].T"},
    ),
    Edit(
        "NumPy returns Vᵀ: the right-singular vectors are its rows, the first j of them Vt[:j].",
        {"[2][:j]": "[2][:, :j].T"},
    ),
    Edit("one direction too few is taken of A1: the first i are Vt[:i].", {"[:i]": "[: i - 1]"}),
    Edit("one direction too few is taken of A2: the first j are Vt[:j].", {"[:j]": "[: j - 1]"}),
    Edit("one direction too many is taken of A1: the first i are Vt[:i].", {"[:i]": "[: i + 1]"}),
    Edit("one direction too many is taken of A2: the first j are Vt[:j].", {"[:j]": "[: j + 1]"}),
    Edit("the last directions of A1 are taken; the first are the important ones.", {"[:i]": "[-i:]"}),
    Edit("the last directions of A2 are taken; the first are the important ones.", {"[:j]": "[-j:]"}),
)


check = checker(
    Exercise(
        subspace_similarity,
        cases,
        results=("φ",),
        rules=(different_ranks,),
        plain=plain_similarity,
        edits=EDITS,
    ),
)
