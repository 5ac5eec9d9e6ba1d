"""Exercise 01: the product of a stack of rows and a matrix, and its gradients."""

import numpy as np

from .checking import Edit, Exercise, Gradients, Mistake, checker


def matmul(x, w):
    """y = x w. x (..., n), w (n, m) -> y (..., m)."""
    return (x[..., :, None] * w).sum(axis=-2)


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


MISTAKES = (
    Mistake(
        "x may have one axis, or three: loops over two see only some. x[..., :, None] * w needs none.",
        lambda x, w: np.array([[(row * w[:, j]).sum() for j in range(w.shape[1])] for row in x]),
    ),
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
        return "NumPy's own product made the values. Use * and a sum: that is the exercise."
    return None


def plain_matmul(x, w):
    """`matmul` by hand, for the edits."""
    terms = x[..., :, None] * w
    return terms.sum(axis=-2)


EDITS = (
    Edit("these are the terms x_i w_ij: they still have to be summed over i.", {".sum(axis=-2)": ""}),
    Edit(
        "the sum runs over the rows of x. Count axes from the end: axis=-2 is i, however many axes x has.",
        {"axis=-2": "axis=0"},
    ),
    Edit(
        "axis=1 is i only where x has two axes. Count from the end: axis=-2 is i, however many axes x has.",
        {"axis=-2": "axis=1"},
    ),
    Edit("w is transposed: its first axis is i, which x has too.", {"* w\n": "* w.T\n"}),
    Edit("w's axes are to meet the new axis of x: x[..., :, None] * w, not x * w.", {"x[..., :, None]": "x"}),
    Edit("the new axis stands before i; it has to come after it: x[..., :, None].", {":, None]": "None, :]"}),
    Edit("the terms are added; x and w are multiplied.", {"* w\n": "+ w\n"}),
    Edit("the sum runs over the wrong axis: it is over i, the axis that x and w share.", {"axis=-2": "axis=-1"}),
    Edit("the sum runs over everything: axis=-2 is i.", {"axis=-2": ""}),
    Edit("a product of matrices is a sum over i, and not a mean.", {".sum(": ".mean("}),
    Edit("a product of matrices is a sum over i, and not the largest term.", {".sum(": ".max("}),
    Edit("keepdims leaves an axis of length 1 in the place of i; y has none.", {"axis=-2": "axis=-2, keepdims=True"}),
)


def plain_backward(dy, x, w):
    """`matmul_backward`, for the edits."""
    rows = x.reshape(-1, x.shape[-1])
    drows = dy.reshape(-1, dy.shape[-1])
    dx = dy @ w.T
    dw = rows.T @ drows
    return dx, dw


BACKWARD_EDITS = (
    Edit(
        "w is used in every sequence of the batch, so dw is one sum over all rows: reshape(-1, ...) makes all leading "
        "axes one.",
        {"rows.T @ drows": "x.swapaxes(-1, -2) @ dy"},
    ),
    Edit(
        "dw is the product of two sums over the rows; it should be the sum of the products, row by row.",
        {"rows.T @ drows": "np.outer(rows.sum(axis=0), drows.sum(axis=0))"},
    ),
    Edit("w stands before dy; in dx the rows come first: dy @ w.T.", {"dy @ w.T": "w @ dy"}),
    Edit(
        "x is not made into rows for dw: reshape(-1, ...) makes all leading axes one.",
        {"x.reshape(-1, x.shape[-1])": "x"},
    ),
    Edit(
        "dy is not made into rows for dw: reshape(-1, ...) makes all leading axes one.",
        {"dy.reshape(-1, dy.shape[-1])": "dy"},
    ),
    Edit("in dx, w has to be transposed: dy (..., m) meets wᵀ (m, n).", {"@ w.T": "@ w"}),
    Edit("in dw, x has to be transposed: (n, rows) meets (rows, m).", {"rows.T @": "rows @"}),
    Edit("x.T turns all axes round: make rows first, or the batch is no longer in its place.", {"rows.T @": "x.T @"}),
    Edit("dw is transposed: it has the shape of w.", {"rows.T @ drows": "drows.T @ rows"}),
    Edit("dx has the wrong sign.", {"dy @ w.T": "-dy @ w.T"}),
    Edit("dw has the wrong sign.", {"rows.T @ drows": "-rows.T @ drows"}),
    Edit("dw is the mean over the rows; it should be their sum.", {"rows.T @ drows": "rows.T @ drows / len(rows)"}),
    Edit("dx is divided by the number of rows; each row has its own.", {"dy @ w.T": "dy @ w.T / len(rows)"}),
    Edit("dx is flattened into rows; it has the shape of x.", {"dy @ w.T": "drows @ w.T"}),
    Edit(
        "only one sequence is counted in dw: it is a sum over all rows.",
        {"rows.T @ drows": "rows[: x.shape[-2]].T @ drows[: x.shape[-2]]"},
    ),
    Edit("dx and dw are returned in the wrong order.", {"return dx, dw": "return dw, dx"}),
    Edit("dw is made of x and y's own product; it needs dy.", {"rows.T @ drows": "rows.T @ (rows @ w)"}),
    Edit("dw is summed over the axes before the last of x alone: it is a product with dy.", {" @ drows": ""}),
)


MATMUL_BACKWARD_HINTS = (
    "dx has one entry for each row t and input i; what disappears in the sum is j. "
    "dw has one for each i and j; t disappears. Which products have just these axes?",
    "dx = dy wᵀ, and dw = xᵀ dy with all leading axes of x and dy made one.",
)

check = checker(
    Exercise(matmul, cases, results=("y",), mistakes=MISTAKES, plain=plain_matmul, edits=EDITS, style=(by_hand,)),
    Exercise(
        matmul_backward,
        backward_cases,
        results=("dx", "dw"),
        plain=plain_backward,
        edits=BACKWARD_EDITS,
        gradients=Gradients(matmul, {"dx": "x", "dw": "w"}),
        hints=MATMUL_BACKWARD_HINTS,
    ),
)
