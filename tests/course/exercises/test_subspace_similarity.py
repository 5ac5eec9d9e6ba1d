import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.subspace_similarity import check


def right_vectors(A):
    return np.linalg.svd(A, full_matrices=False)[2]


def similarity(directions=lambda A, i: right_vectors(A)[:i], divisor=min, measure=lambda c: np.sum(c * c)):
    """A student's φ with some part of its own."""

    def wrong(A1, A2, i, j):
        return measure(directions(A1, i) @ directions(A2, j).T) / divisor(i, j)

    return wrong


def left(A1, A2, i, j):
    U1, _, _ = np.linalg.svd(A1)
    U2, _, _ = np.linalg.svd(A2)
    return np.linalg.norm(U1[:, :i].T @ U2[:, :j]) ** 2 / min(i, j)


def columns_of_the_transpose(A1, A2, i, j):
    V1, V2 = right_vectors(A1), right_vectors(A2)
    return np.linalg.norm(V1[:, :i].T @ V2[:, :j]) ** 2 / min(i, j)


def rows_of_length_1(A, i):
    return A[:i] / np.sqrt((A[:i] ** 2).sum(axis=1, keepdims=True))


def weighted(A, i):
    _, S, Vt = np.linalg.svd(A, full_matrices=False)
    return np.diag(S[:i]) @ Vt[:i]


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (similarity(divisor=max), "the larger of i and j"),
        (similarity(divisor=lambda i, j: i * j), "divided by i · j"),
        (similarity(divisor=lambda i, j: 1), "still to be divided"),
        (similarity(measure=np.linalg.norm), "norm is to be squared"),
        (similarity(measure=lambda c: np.linalg.norm(c, ord=2) ** 2), "that of Frobenius"),
        (similarity(measure=lambda c: np.abs(c).sum()), "squared and added up"),
        (left, "left-singular vectors"),
        (columns_of_the_transpose, "NumPy returns Vᵀ"),
        (similarity(lambda A, i: right_vectors(A)[::-1][:i]), "the last directions are taken"),
        (similarity(rows_of_length_1), "not at right angles"),
        (similarity(lambda A, i: A[:i]), "rows of A as they stand"),
        (similarity(weighted), "weighted with the singular values"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "subspace_similarity", capsys)


def test_a_formula_for_equal_ranks_only_is_not_enough(capsys):
    def padded(A1, A2, i, j):
        V = right_vectors(np.concatenate([A1, A2])[: len(A1)])
        W = right_vectors(np.concatenate([A1, A2])[len(A1) : 2 * len(A1)])
        return np.sum((V[:i] @ W[:j].T) ** 2) / min(i, j)

    assert_told(check, padded, "where the ranks differ", "subspace_similarity", capsys)


def by_ranks(A1, A2, i, j):
    return similarity(divisor=lambda i, j: min(len(A1), len(A2)))(A1, A2, i, j)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (by_ranks, "by the smaller rank"),
        (similarity(lambda A, i: np.linalg.svd(A)[0][:i]), "rows of the left-singular"),
        (similarity(lambda A, i: right_vectors(A)[: i - 1]), "one direction too few"),
        (similarity(lambda A, i: right_vectors(A)), "all directions are taken"),
        (similarity(measure=lambda c: np.sum(np.diag(c) ** 2)), "the diagonal alone"),
    ],
)
def test_wrong_numbers_of_directions_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "subspace_similarity", capsys)
