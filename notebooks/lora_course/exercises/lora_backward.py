"""Exercise 07: the gradients of a linear layer with a low-rank update."""

import numpy as np

from lora_np.autograd.fused import lora_linear_backward, lora_linear_forward

from .checking import Edit, Exercise, Gradients, checker
from .lora_forward import lora_forward
from .watching import forms


def lora_backward(dy, x, W, A, B, alpha):
    """dx, dA, dB of `lora_forward`, given dy (..., out). x (..., in), W (out, in), A (r, in), B (out, r)."""
    needs = (True, False, False, True, True)
    _, cache = lora_linear_forward(x, W, None, A, B, alpha / len(A), needs=needs)
    dx, _, _, dA, dB = lora_linear_backward(dy, cache)
    return dx, dA, dB


def cases():
    """Arguments with a B that is not zero: at B = 0 a wrong dA would not show. Rows, and a batch of sequences."""
    rng = np.random.default_rng(7)
    return [
        {
            "dy": rng.standard_normal((*leading, n_out)),
            "x": rng.standard_normal((*leading, n_in)),
            "W": rng.standard_normal((n_out, n_in)),
            "A": rng.standard_normal((r, n_in)),
            "B": rng.standard_normal((n_out, r)),
            "alpha": alpha,
        }
        for leading, n_in, n_out, r, alpha in [((5,), 7, 6, 3, 16.0), ((2, 4), 6, 9, 2, 8.0)]
    ]


def no_full_matrix(function):
    """None, or a sentence if a matrix as large as W is formed: B A, or the gradient of W."""
    rng = np.random.default_rng(0)
    shapes = ((5, 11), (5, 13), (11, 13), (2, 13), (11, 2))
    if forms(function, (*map(rng.standard_normal, shapes), 4.0), (11, 13)):
        return (
            "a matrix as large as W is formed: B A, or dyᵀ x. Go through dy B, which has "
            "only r numbers a row: dx needs (dy B) A, dA needs (dy B)ᵀ x, and dB needs x Aᵀ."
        )
    return None


def _forward(x, W, A, B, alpha):
    return lora_forward(x, W, np.zeros(len(W)), A, B, alpha)


def plain_backward(dy, x, W, A, B, alpha):
    """`lora_backward`, for the edits."""
    s = alpha / A.shape[0]
    rows, dys = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    g = dy @ B
    dx = dy @ W + s * g @ A
    dA = s * (dys @ B).T @ rows
    dB = s * dys.T @ (rows @ A.T)
    return dx, dA, dB


EDITS = (
    Edit(
        "dA is zero only while B is, at the start of training. The formula has to hold for every B.",
        {"s * (dys @ B).T @ rows": "np.zeros_like(A)"},
    ),
    Edit(
        "this is the mean over the rows. A gradient is the sum; dividing by the batch's size is the loss's part.",
        {"dA = s": "dA = s / len(rows)", "dB = s": "dB = s / len(rows)"},
    ),
    Edit(
        "the axes before the last are still there: flatten x and dy into rows first; the product then sums over them.",
        {
            "x.reshape(-1, x.shape[-1])": "x",
            "dy.reshape(-1, dy.shape[-1])": "dy",
            "(dys @ B).T": "(dys @ B).swapaxes(-1, -2)",
            "dys.T @ (": "dys.swapaxes(-1, -2) @ (",
        },
    ),
    Edit("the results are in another order: dx, dA, dB.", {"return dx, dA, dB": "return dB, dA, dx"}),
    Edit("r is A's first axis: B.shape[0] is the number of outputs.", {"A.shape[0]": "B.shape[0]"}),
    Edit(
        "x is not made into rows for dA and dB: reshape(-1, ...) makes all leading axes one.",
        {"x.reshape(-1, x.shape[-1])": "x"},
    ),
    Edit(
        "dy is not made into rows for dA and dB: reshape(-1, ...) makes all leading axes one.",
        {"dy.reshape(-1, dy.shape[-1])": "dy"},
    ),
    Edit("in dx, W is not transposed: dy (..., out) meets W (out, in).", {"dy @ W": "dy @ W.T"}),
    Edit("B is not transposed here: dy (..., out) meets B (out, r).", {"g = dy @ B": "g = dy @ B.T"}),
    Edit("in dx, A is not transposed: (..., r) meets A (r, in).", {"g @ A": "g @ A.T"}),
    Edit("in dA, B is not transposed: dy (rows, out) meets B (out, r).", {"(dys @ B)": "(dys @ B.T)"}),
    Edit("in dA, dy B has to be transposed: (r, rows) meets (rows, in).", {"(dys @ B).T": "(dys @ B)"}),
    Edit("in dB, dy has to be transposed: (out, rows) meets (rows, r).", {"dys.T @ (": "dys @ ("}),
    Edit("in dB, h = x Aᵀ: A has to be transposed.", {"(rows @ A.T)": "(rows @ A)"}),
    Edit("dA is transposed: it has the shape of A.", {"(dys @ B).T @ rows": "rows.T @ (dys @ B)"}),
    Edit("dB is transposed: it has the shape of B.", {"dys.T @ (rows @ A.T)": "(rows @ A.T).T @ dys"}),
    Edit("r is A's first axis: A.shape[1] is the number of inputs.", {"A.shape[0]": "A.shape[1]"}),
    Edit("s is alpha, and not divided by the rank r.", {"alpha / A.shape[0]": "alpha"}),
    Edit("s is alpha · r; divide.", {"alpha / A": "alpha * A"}),
    Edit("s is r / alpha: turn it round.", {"alpha / A.shape[0]": "A.shape[0] / alpha"}),
    Edit("s is alpha / √r; here it is alpha / r.", {"alpha / A.shape[0]": "alpha / np.sqrt(A.shape[0])"}),
    Edit("alpha / r is missing from the branch's part of dx.", {"s * g": "g"}),
    Edit("alpha / r is missing from dA.", {"s * (dys": "(dys"}),
    Edit("alpha / r is missing from dB.", {"s * dys": "dys"}),
    Edit("alpha / r scales the frozen layer's part of dx too.", {"dy @ W + s": "s * dy @ W + s"}),
    Edit("alpha / r is in dA twice.", {"s * (dys": "s * s * (dys"}),
    Edit("alpha / r is in dB twice.", {"s * dys": "s * s * dys"}),
    Edit("in dx, the branch's part is missing: x also reaches y through A and B.", {" + s * g @ A": ""}),
    Edit("in dx, the branch's part has the wrong sign.", {"+ s * g": "- s * g"}),
    Edit(
        "in dx, the frozen layer's part, dy W, is missing: the layers below need what comes through it.",
        {"dy @ W + ": ""},
    ),
    Edit("dA has the wrong sign.", {"dA = s": "dA = -s"}),
    Edit("dB has the wrong sign.", {"dB = s": "dB = -s"}),
    Edit("dA is the mean over the rows; it should be their sum.", {"dA = s": "dA = s / len(rows)"}),
    Edit("dB is the mean over the rows; it should be their sum.", {"dB = s": "dB = s / len(rows)"}),
    Edit("dx is flattened into rows; it has the shape of x.", {"dx = dy @ W + s * g": "dx = dys @ W + s * (dys @ B)"}),
    Edit("dA and dB have changed places.", {"return dx, dA, dB": "return dx, dB, dA"}),
    Edit("the results are in another order: dx, dA, dB.", {"return dx, dA, dB": "return dA, dB, dx"}),
)


check = checker(
    Exercise(
        lora_backward,
        cases,
        results=("dx", "dA", "dB"),
        style=(no_full_matrix,),
        plain=plain_backward,
        edits=EDITS,
        gradients=Gradients(_forward, {"dx": "x", "dA": "A", "dB": "B"}),
    ),
)
