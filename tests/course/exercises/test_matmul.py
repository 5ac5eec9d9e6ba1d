import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.matmul import check, matmul


def rows_summed(x, w):
    return (x[..., :, None] * w).sum(axis=0)


def not_summed(x, w):
    return x[..., None] * w


def mean_taken(x, w):
    return np.mean(x[..., None] * w, axis=-2)


def outputs_summed(x, w):
    return (x[..., None] * w).sum(axis=-1)


def by_at(x, w):
    return x @ w


def by_matmul(x, w):
    return np.matmul(x, w)


def by_vecdot(x, w):
    return np.vecdot(x[..., None, :], w.T)


def by_dot(x, w):
    return x.dot(w)


def by_einsum(x, w):
    return np.einsum("...n,nm->...m", x, w)


def by_tensordot(x, w):
    return np.tensordot(x, w, axes=1)


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (rows_summed, "runs over the rows"),
        (not_summed, "still have to be summed"),
        (mean_taken, "not a mean"),
        (outputs_summed, "wrong axis"),
        (by_at, "NumPy's own product"),
        (by_matmul, "NumPy's own product"),
        (by_vecdot, "NumPy's own product"),
        (by_dot, "NumPy's own product"),
        (by_einsum, "NumPy's own product"),
        (by_tensordot, "NumPy's own product"),
    ],
)
def test_usual_mistakes_in_the_product_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "matmul", capsys)


def test_other_ways_by_hand_are_right():
    def matmul(x, w):
        columns = [(x * w[:, j]).sum(axis=-1) for j in range(w.shape[1])]
        return np.stack(columns, axis=-1)

    assert check(matmul) is matmul


def test_loops_are_right():
    def matmul(x, w):
        rows = x.reshape(-1, x.shape[-1])
        y = np.zeros((len(rows), w.shape[1]))
        for t, row in enumerate(rows):
            for j in range(w.shape[1]):
                y[t, j] = sum(row[i] * w[i, j] for i in range(len(row)))
        return y.reshape(*x.shape[:-1], w.shape[1])

    assert check(matmul) is matmul


def test_the_reference_is_the_matrix_product():
    x, w = np.arange(24.0).reshape(2, 3, 4), np.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(matmul(x, w), x @ w)


def per_sequence(dy, x, w):
    return dy @ w.T, np.einsum("...ti,...tj->...ij", x, dy)


def mean_over_rows(dy, x, w):
    dw = x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
    return dy @ w.T, dw / dy[..., 0].size


def transposed(dy, x, w):
    return dy @ w.T, dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])


def sums_multiplied(dy, x, w):
    over = tuple(range(x.ndim - 1))
    return dy @ w.T, x.sum(axis=over)[:, None] * dy.sum(axis=over)


def wrong_order(dy, x, w):
    return x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1]), dy @ w.T


def dx_alone(dy, x, w):
    return dy @ w.T


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (per_sequence, "one sum over all rows"),
        (mean_over_rows, "mean over the rows"),
        (transposed, "dw is transposed"),
        (sums_multiplied, "product of two sums"),
        (wrong_order, "wrong order"),
        (dx_alone, "should return 2 things: dx, dw"),
    ],
)
def test_usual_mistakes_in_the_backward_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "matmul_backward", capsys)


def test_a_product_of_shapes_that_do_not_fit_is_shown_with_its_line(capsys):
    def matmul_backward(dy, x, w):
        return dy @ w, None

    with pytest.raises(ValueError, match="matmul"):
        check(matmul_backward)
    assert "dy @ w" in capsys.readouterr().out


def by_loops(x, w):
    y = np.zeros((len(x), w.shape[1]))
    for t in range(len(x)):
        for j in range(w.shape[1]):
            y[t, j] = (x[t] * w[:, j]).sum()
    return y


def second_axis(x, w):
    return (x[..., None] * w).sum(1)


@pytest.mark.parametrize(("mistake", "hint"), [(by_loops, "see only some"), (second_axis, "axis=1 is i only where")])
def test_what_fits_two_axes_only_is_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "matmul", capsys)
