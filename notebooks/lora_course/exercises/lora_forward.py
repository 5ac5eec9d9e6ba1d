"""Exercise 06: the forward of a linear layer with a low-rank update."""

import numpy as np

from lora_np.autograd.fused import lora_linear_forward

from .checking import Edit, Exercise, checker
from .watching import forms


def lora_forward(x, W, b, A, B, alpha):
    """y = x Wᵀ + b + (alpha / r) (x Aᵀ) Bᵀ. x (..., in), W (out, in), b (out,), A (r, in), B (out, r)."""
    return lora_linear_forward(x, W, b, A, B, alpha / len(A))[0]


def cases():
    """Arguments with a B that is not zero, for one row, several, and a batch of sequences."""
    rng = np.random.default_rng(6)
    return [
        {
            "x": rng.standard_normal((*leading, n_in)),
            "W": rng.standard_normal((n_out, n_in)),
            "b": rng.standard_normal(n_out),
            "A": rng.standard_normal((r, n_in)),
            "B": rng.standard_normal((n_out, r)),
            "alpha": alpha,
        }
        for leading, n_in, n_out, r, alpha in [((5,), 7, 6, 3, 16.0), ((2, 4), 6, 9, 2, 8.0), ((), 5, 8, 4, 2.0)]
    ]


def thin_products(function):
    """None, or a sentence if B A is formed in full."""
    rng = np.random.default_rng(0)
    shapes = ((5, 13), (11, 13), (11,), (2, 13), (11, 2))
    if forms(function, (*map(rng.standard_normal, shapes), 4.0), (11, 13)):
        return (
            "B A is formed in full: that is a matrix as large as W. "
            "Put the brackets the other way, (x Aᵀ) Bᵀ: two thin products."
        )
    return None


def plain_forward(x, W, b, A, B, alpha):
    """`lora_forward`, for the edits."""
    r = A.shape[0]
    s = alpha / r
    h = x @ A.T
    branch = h @ B.T
    base = x @ W.T + b
    return base + s * branch


EDITS = (
    Edit(
        "alpha / r scales the bias too: only the branch is scaled.",
        {"x @ W.T + b": "x @ W.T", "base + s * branch": "base + s * (branch + b)"},
    ),
    Edit("W has to be transposed: its rows are outputs, so it is x @ W.T.", {"@ W.T": "@ W"}),
    Edit("A has to be transposed: (..., in) meets Aᵀ (in, r).", {"@ A.T": "@ A"}),
    Edit("B has to be transposed: (..., r) meets Bᵀ (r, out).", {"@ B.T": "@ B"}),
    Edit("A and B are multiplied as A B; it is B A, or (x Aᵀ) Bᵀ.", {"h @ B.T": "x @ (A @ B)"}),
    Edit("A and B are multiplied as A B; it is B A, or (x Aᵀ) Bᵀ.", {"h @ B.T": "x @ (A @ B).T"}),
    Edit("B comes first here: x goes through A, then through B.", {"x @ A.T": "x @ B.T", "h @ B.T": "h @ A.T"}),
    Edit("r is A's first axis: A.shape[1] is the number of inputs.", {"A.shape[0]": "A.shape[1]"}),
    Edit("r is A's first axis: B.shape[0] is the number of outputs.", {"A.shape[0]": "B.shape[0]"}),
    Edit("alpha / r is missing: the branch has to be scaled.", {"s * branch": "branch"}),
    Edit("the branch is scaled by alpha, and not divided by the rank r.", {"alpha / r": "alpha"}),
    Edit("the branch is scaled by r / alpha: turn it round.", {"alpha / r": "r / alpha"}),
    Edit("the branch is scaled by alpha · r: divide.", {"alpha / r": "alpha * r"}),
    Edit("the branch is divided by r and alpha is missing: alpha / r.", {"alpha / r": "1 / r"}),
    Edit("// leaves the remainder out: alpha / r.", {"alpha / r": "alpha // r"}),
    Edit(
        "the branch is scaled by alpha / √r, as in rsLoRA; here it is alpha / r.", {"alpha / r": "alpha / np.sqrt(r)"}
    ),
    Edit("alpha / r is there twice.", {"s * branch": "s * s * branch"}),
    Edit("the bias b is missing.", {" + b\n": "\n"}),
    Edit("the bias b is subtracted; add it.", {" + b\n": " - b\n"}),
    Edit("the branch is subtracted; add it.", {"base + s": "base - s"}),
    Edit("this is the branch alone: the frozen layer x Wᵀ + b is missing.", {"base + s * branch": "s * branch"}),
    Edit("the branch is missing.", {"base + s * branch": "base"}),
    Edit("the branch reads the frozen layer's result; both read x.", {"h = x @ A.T": "h = (x @ W.T) @ A.T"}),
    Edit(
        "alpha / r scales the frozen layer too: only the branch is scaled.",
        {"base + s * branch": "s * (base + branch)"},
    ),
)


LORA_FORWARD_HINTS = (
    "x (BA)ᵀ = x Aᵀ Bᵀ. Which of the two products comes first, if no matrix may be larger than (rows, r)?",
    "y = x Wᵀ + b + (alpha / r) (x Aᵀ) Bᵀ.",
)

check = checker(
    Exercise(
        lora_forward,
        cases,
        results=("y",),
        style=(thin_products,),
        plain=plain_forward,
        edits=EDITS,
        hints=LORA_FORWARD_HINTS,
    ),
)
