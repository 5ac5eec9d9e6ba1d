"""Exercise 07: the gradients of a linear layer with a low-rank update."""

import numpy as np

from lora_np.autograd.fused import lora_linear_backward, lora_linear_forward

from .checking import Exercise, Gradients, Mistake, checker
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


def _with(base=1, branch=lambda s: s, for_A=lambda s, n: s, for_B=lambda s, n: s):
    """The backward with other factors: of dx's two parts, of dA and of dB. s is alpha / r, n the number of rows."""

    def backward(dy, x, W, A, B, alpha):
        rows, dys, s = _rows(x), _rows(dy), alpha / len(A)
        n = len(rows)
        dx = base * (dy @ W) + branch(s) * (dy @ B @ A)
        return dx, for_A(s, n) * ((dys @ B).T @ rows), for_B(s, n) * (dys.T @ (rows @ A.T))

    return backward


def _not_flattened(dy, x, W, A, B, alpha):
    """Products over the last two axes only: right for rows, one gradient for each sequence of a batch."""
    s, dx = alpha / len(A), lora_backward(dy, x, W, A, B, alpha)[0]
    return dx, s * (dy @ B).swapaxes(-1, -2) @ x, s * dy.swapaxes(-1, -2) @ (x @ A.T)


def _rows(x):
    """All leading axes as one."""
    return x.reshape(-1, x.shape[-1])


def _in_order(*order):
    """The right results in another order."""
    return lambda *case: tuple(lora_backward(*case)[i] for i in order)


MISTAKES = (
    Mistake("alpha / r is missing from the branch's part of dx. Do dA and dB have it?", _with(branch=lambda s: 1)),
    Mistake("the branch's part is missing: x also reaches y through A and B.", _with(branch=lambda s: 0)),
    Mistake(
        "the frozen layer's part, dy W, is missing. W is not trained, but the layers below need what comes through it.",
        _with(base=0),
    ),
    Mistake(
        "dA is zero only while B is, at the start of training. The formula has to hold for every B.",
        _with(for_A=lambda s, n: 0),
    ),
    Mistake("alpha / r is missing from dA.", _with(for_A=lambda s, n: 1)),
    Mistake("alpha / r is in dA twice.", _with(for_A=lambda s, n: s * s)),
    Mistake(
        "this is the mean over the rows. A gradient is the sum; dividing by the batch's size is the loss's part.",
        _with(for_A=lambda s, n: s / n, for_B=lambda s, n: s / n),
    ),
    Mistake("alpha / r is missing from dB.", _with(for_B=lambda s, n: 1)),
    Mistake("alpha / r is in dB twice.", _with(for_B=lambda s, n: s * s)),
    Mistake(
        "the axes before the last are still there: flatten x and dy into rows first; the product then sums over them.",
        _not_flattened,
    ),
    Mistake(
        "dx is flattened into rows; it has the shape of x. Only dA and dB need the rows.",
        lambda *case: (_rows(lora_backward(*case)[0]), *lora_backward(*case)[1:]),
    ),
    *(
        Mistake("the three results are in another order: dx, dA, dB.", _in_order(*order))
        for order in ((1, 2, 0), (2, 1, 0), (0, 2, 1))
    ),
)


def no_full_matrix(function):
    """None, or a sentence if a matrix as large as W is formed: B A, or the gradient of W."""
    rng = np.random.default_rng(0)
    shapes = ((5, 11), (5, 13), (11, 13), (2, 13), (11, 2))
    if forms(function, (*map(rng.standard_normal, shapes), 4.0), (11, 13)):
        return (
            "the values are right, but a matrix as large as W is formed: B A, or dyᵀ x. Go through dy B, which has "
            "only r numbers a row: dx needs (dy B) A, dA needs (dy B)ᵀ x, and dB needs x Aᵀ."
        )
    return None


def _forward(x, W, A, B, alpha):
    return lora_forward(x, W, np.zeros(len(W)), A, B, alpha)


check = checker(
    Exercise(
        lora_backward,
        cases,
        results=("dx", "dA", "dB"),
        mistakes=MISTAKES,
        rules=(no_full_matrix,),
        gradients=Gradients(_forward, {"dx": "x", "dA": "A", "dB": "B"}),
    ),
)
