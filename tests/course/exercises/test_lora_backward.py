import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.lora_backward import check


def flat(x):
    return x.reshape(-1, x.shape[-1])


def alpha_forgotten(dy, x, W, A, B, alpha):
    g = dy @ B
    return dy @ W + g @ A, flat(g).T @ flat(x), flat(dy).T @ flat(x @ A.T)


def alpha_forgotten_in_db(dy, x, W, A, B, alpha):
    g = alpha / len(A) * dy @ B
    return dy @ W + g @ A, flat(g).T @ flat(x), flat(dy).T @ flat(x @ A.T)


def branch_forgotten_in_dx(dy, x, W, A, B, alpha):
    g = alpha / len(A) * dy @ B
    return dy @ W, flat(g).T @ flat(x), alpha / len(A) * flat(dy).T @ flat(x @ A.T)


def frozen_means_no_gradient(dy, x, W, A, B, alpha):
    g = alpha / len(A) * dy @ B
    return g @ A, flat(g).T @ flat(x), alpha / len(A) * flat(dy).T @ flat(x @ A.T)


def mean_over_rows(dy, x, W, A, B, alpha):
    s, g = alpha / len(A), alpha / len(A) * dy @ B
    n = len(flat(x))
    return dy @ W + g @ A, flat(g).T @ flat(x) / n, s * flat(dy).T @ flat(x @ A.T) / n


def scaled_twice(dy, x, W, A, B, alpha):
    s, g = alpha / len(A), alpha / len(A) * dy @ B
    return dy @ W + g @ A, s * flat(g).T @ flat(x), s * flat(dy).T @ flat(x @ A.T)


def transposed(dy, x, W, A, B, alpha):
    s, g = alpha / len(A), alpha / len(A) * dy @ B
    return dy @ W + g @ A, flat(x).T @ flat(g), s * flat(dy).T @ flat(x @ A.T)


def one_for_each_sequence(dy, x, W, A, B, alpha):
    s, g = alpha / len(A), alpha / len(A) * dy @ B
    return dy @ W + g @ A, np.einsum("...nr,...ni->...ri", g, x), s * flat(dy).T @ flat(x @ A.T)


def zero_at_the_start(dy, x, W, A, B, alpha):
    """Reasoned from B = 0, where dA is zero."""
    s, g = alpha / len(A), alpha / len(A) * dy @ B
    return dy @ W + g @ A, np.zeros_like(A), s * flat(dy).T @ flat(x @ A.T)


def from_the_full_matrix(dy, x, W, A, B, alpha):
    s, dW = alpha / len(A), flat(dy).T @ flat(x)
    return dy @ (W + s * B @ A), s * B.T @ dW, s * dW @ A.T


def too_few(dy, x, W, A, B, alpha):
    return dy @ W


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (alpha_forgotten, "missing from the branch's part of dx"),
        (alpha_forgotten_in_db, "missing from dB"),
        (branch_forgotten_in_dx, "branch's part is missing"),
        (frozen_means_no_gradient, "frozen layer's part"),
        (mean_over_rows, "mean over the rows"),
        (scaled_twice, "in dA twice"),
        (transposed, "dA is transposed"),
        (one_for_each_sequence, "flatten x and dy"),
        (zero_at_the_start, "dA is zero only while B is"),
        (from_the_full_matrix, "as large as W"),
        (too_few, "return 3 things: dx, dA, dB"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "lora_backward", capsys)


def test_rows_that_are_not_flattened_stop_with_the_shapes(capsys):
    def lora_backward(dy, x, W, A, B, alpha):
        g = alpha / len(A) * dy @ B
        return dy @ W + g @ A, g.T @ x, alpha / len(A) * dy.T @ (x @ A.T)

    with pytest.raises(ValueError, match="matmul"):
        check(lora_backward)
    out = capsys.readouterr().out
    assert "g.T @ x" in out
    assert "x (2, 4, 6)" in out


def right(dy, x, W, A, B, alpha):
    s, g = alpha / len(A), alpha / len(A) * dy @ B
    return dy @ W + g @ A, flat(g).T @ flat(x), s * flat(dy).T @ flat(x @ A.T)


def left_flat(*case):
    dx, dA, dB = right(*case)
    return flat(dx), dA, dB


def dx_last(*case):
    dx, dA, dB = right(*case)
    return dA, dB, dx


def b_before_a(*case):
    dx, dA, dB = right(*case)
    return dx, dB, dA


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [(left_flat, "dx is flattened"), (dx_last, "in another order"), (b_before_a, "dA and dB have changed places")],
)
def test_results_that_are_right_but_out_of_place_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "lora_backward", capsys)
