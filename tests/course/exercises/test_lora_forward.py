import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.lora_forward import check


def no_scaling(x, W, b, A, B, alpha):
    return x @ W.T + b + x @ A.T @ B.T


def alpha_alone(x, W, b, A, B, alpha):
    return x @ W.T + b + alpha * (x @ A.T @ B.T)


def r_over_alpha(x, W, b, A, B, alpha):
    return x @ W.T + b + A.shape[0] / alpha * (x @ A.T @ B.T)


def outputs_for_rank(x, W, b, A, B, alpha):
    return x @ W.T + b + alpha / B.shape[0] * (x @ A.T @ B.T)


def no_bias(x, W, b, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


def no_base(x, W, b, A, B, alpha):
    return alpha / len(A) * (x @ A.T @ B.T)


def all_scaled(x, W, b, A, B, alpha):
    return alpha / len(A) * (x @ W.T + b + x @ A.T @ B.T)


def product_in_full(x, W, b, A, B, alpha):
    return x @ W.T + b + alpha / len(A) * (x @ (B @ A).T)


def product_by_einsum(x, W, b, A, B, alpha):
    return x @ W.T + b + alpha / len(A) * (x @ np.einsum("or,ri->io", B, A))


def product_by_dot(x, W, b, A, B, alpha):
    return x @ (W + alpha / len(A) * B.dot(A)).T + b


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (no_scaling, "alpha / r is missing"),
        (alpha_alone, "not divided by the rank"),
        (r_over_alpha, "turn it round"),
        (outputs_for_rank, "number of outputs"),
        (no_bias, "bias b is missing"),
        (no_base, "branch alone"),
        (all_scaled, "only the branch"),
        (product_in_full, "formed in full"),
        (product_by_einsum, "formed in full"),
        (product_by_dot, "formed in full"),
    ],
)
def test_usual_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "lora_forward", capsys)


def test_einsum_over_thin_products_is_right():
    def lora_forward(x, W, b, A, B, alpha):
        return x @ W.T + b + alpha / len(A) * np.einsum("...r,or->...o", np.einsum("...i,ri->...r", x, A), B)

    assert check(lora_forward) is lora_forward


def scaled(factor):
    """The forward with a student's own factor before the branch."""
    return lambda x, W, b, A, B, alpha: x @ W.T + b + factor(alpha, A) * (x @ A.T @ B.T)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (scaled(lambda alpha, A: alpha / A.shape[1]), "the number of inputs"),
        (scaled(lambda alpha, A: alpha // len(A)), "leaves the remainder out"),
        (scaled(lambda alpha, A: alpha * len(A)), "alpha · r: divide"),
        (scaled(lambda alpha, A: alpha / np.sqrt(len(A))), "as in rsLoRA"),
        (lambda x, W, b, A, B, alpha: x @ W.T + alpha / len(A) * (b + x @ A.T @ B.T), "scales the bias too"),
    ],
)
def test_wrong_factors_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "lora_forward", capsys)
