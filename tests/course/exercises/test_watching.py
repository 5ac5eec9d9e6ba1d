import numpy as np
import pytest

from lora_course.exercises.watching import forms, shapes_made

x, A, B, W = np.ones((5, 13)), np.ones((2, 13)), np.ones((11, 2)), np.ones((11, 13))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, A, B, W: x @ (B @ A).T,
        lambda x, A, B, W: x @ (A.T @ B.T),
        lambda x, A, B, W: x @ (W + 2 * B.dot(A)).T,
        lambda x, A, B, W: x @ np.einsum("or,ri->io", B, A),
        lambda x, A, B, W: x @ (B[:, :, None] * A[None]).sum(axis=1).T,
        lambda x, A, B, W: x @ np.tensordot(B, A, 1).T,
        lambda x, A, B, W: x @ np.linalg.multi_dot([B, np.eye(2), A]).T,
    ],
)
def test_the_full_product_is_seen_however_it_is_written(function):
    assert forms(function, (x, A, B, W), (11, 13))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, A, B, W: x @ W.T + x @ A.T @ B.T,
        lambda x, A, B, W: x @ np.transpose(W) + 0.5 * (x @ A.T) @ B.T,
        lambda x, A, B, W: np.einsum("nr,or->no", np.einsum("ni,ri->nr", x, A), B),
        lambda x, A, B, W: x @ (2.0 * W).T,
    ],
)
def test_thin_products_and_w_itself_do_not_count(function):
    assert not forms(function, (x, A, B, W), (11, 13))


def test_shapes_are_in_order_and_writing_in_place_makes_nothing():
    def function(x, A):
        h = x @ A.T
        h += 1
        return h.sum(axis=0)

    assert shapes_made(function, x, A) == [(5, 2), (2,)]


def test_results_are_those_of_plain_arrays():
    found = []
    shapes_made(lambda x, A: found.append(np.concatenate([x @ A.T, x @ A.T])), x, A)
    np.testing.assert_array_equal(found[0], np.concatenate([x @ A.T, x @ A.T]))
