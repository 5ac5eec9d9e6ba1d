"""Exercise 01: the product of a stack of rows and a matrix, and its gradients."""

import numpy as np

from .checking import Exercise, Gradients, Mistake, checker


def matmul(x, w):
    """y = x w. x (..., n), w (n, m) -> y (..., m)."""
    return _terms(x, w).sum(axis=-2)


def matmul_backward(dy, x, w):
    """The gradients of `matmul`: dy (..., m), x (..., n), w (n, m) -> dx (..., n), dw (n, m)."""
    return dy @ w.T, _rows(x).T @ _rows(dy)


def _rows(x):
    """All leading axes as one."""
    return x.reshape(-1, x.shape[-1])


def cases():
    """x and w for rows, a batch of sequences, and a single row."""
    rng = np.random.default_rng(1)
    sizes = [((5,), 4, 3), ((2, 3), 4, 6), ((), 3, 5)]
    return [{"x": rng.standard_normal((*rows, n)), "w": rng.standard_normal((n, m))} for rows, n, m in sizes]


def backward_cases():
    """The same with a gradient dy of the result, for rows and for batches."""
    rng = np.random.default_rng(2)
    return [
        {
            "dy": rng.standard_normal((*rows, m)),
            "x": rng.standard_normal((*rows, n)),
            "w": rng.standard_normal((n, m)),
        }
        for rows, n, m in [((5,), 4, 3), ((2, 3), 4, 6)]
    ]


def _terms(x, w):
    """x_i w_ij before the sum over i: (..., n, m)."""
    return x[..., :, None] * w


MISTAKES = (
    Mistake("the sum runs over the wrong axis: it is over i, the axis that x and w share.", lambda x, w: x * w.sum(1)),
    Mistake("a product of matrices is a sum over i, and not a mean.", lambda x, w: _terms(x, w).mean(axis=-2)),
    Mistake("these are the terms x_i w_ij: they still have to be summed over i.", _terms),
    Mistake(
        "the sum runs over the rows of x. Count axes from the end: axis=-2 is i, however many axes x has.",
        lambda x, w: _terms(x, w).sum(axis=0),
    ),
    Mistake(
        "axis=1 is i only where x has two axes. Count from the end: axis=-2 is i, however many axes x has.",
        lambda x, w: _terms(x, w).sum(axis=1),
    ),
    Mistake(
        "x may have one axis, or three: loops over two see only some. x[..., :, None] * w needs none.",
        lambda x, w: np.array([[(row * w[:, j]).sum() for j in range(w.shape[1])] for row in x]),
    ),
)
BACKWARD_MISTAKES = (
    Mistake(
        "w is used in every sequence of the batch, so dw is one sum over all rows: reshape(-1, ...) makes all leading "
        "axes one.",
        lambda dy, x, w: (dy @ w.T, x.swapaxes(-1, -2) @ dy),
    ),
    Mistake(
        "dw is the mean over the rows; it should be their sum.",
        lambda dy, x, w: (dy @ w.T, _rows(x).T @ _rows(dy) / len(_rows(x))),
    ),
    Mistake(
        "dw is transposed: it has the shape of w.",
        lambda dy, x, w: (dy @ w.T, _rows(dy).T @ _rows(x)),
    ),
    Mistake(
        "dw is the product of two sums over the rows; it should be the sum of the products, row by row.",
        lambda dy, x, w: (dy @ w.T, np.outer(_rows(x).sum(axis=0), _rows(dy).sum(axis=0))),
    ),
    Mistake("dx and dw are returned in the wrong order.", lambda dy, x, w: matmul_backward(dy, x, w)[::-1]),
)


class NotByHandError(Exception):
    """A ready-made product was used."""


class Bare(np.ndarray):
    """An array without ready-made products of matrices: NotByHandError where one is asked for."""

    READY = (np.dot, np.einsum, np.tensordot, np.inner, np.vdot)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc.signature is not None:  # it works on whole rows or matrices: matmul, vecdot and their like
            raise NotByHandError
        plain = [np.asarray(x) if isinstance(x, Bare) else x for x in inputs]
        return np.asarray(getattr(ufunc, method)(*plain, **options)).view(Bare)

    def __array_function__(self, function, types, inputs, options):
        if function in self.READY:
            raise NotByHandError
        return super().__array_function__(function, types, inputs, options)

    def dot(self, other, out=None):
        raise NotByHandError


def by_hand(function):
    """None, or a sentence if the function leaves the product to NumPy."""
    try:
        function(np.ones((2, 3)).view(Bare), np.ones((3, 4)).view(Bare))
    except NotByHandError:
        return "the values are right, but NumPy's own product made them. Use * and a sum: that is the exercise."
    return None


check = checker(
    Exercise(matmul, cases, results=("y",), mistakes=MISTAKES, rules=(by_hand,)),
    Exercise(
        matmul_backward,
        backward_cases,
        results=("dx", "dw"),
        mistakes=BACKWARD_MISTAKES,
        gradients=Gradients(matmul, {"dx": "x", "dw": "w"}),
    ),
)
