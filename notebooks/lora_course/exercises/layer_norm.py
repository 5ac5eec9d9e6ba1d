"""Exercise 03: layer norm and its gradients."""

import numpy as np

from lora_np.autograd.fused import layer_norm_backward as fused_backward
from lora_np.autograd.fused import layer_norm_forward as fused_forward

from .checking import Exercise, Gradients, checker
from .layer_norm_edits import BACKWARD_EDITS, EDITS, plain_backward, plain_layer_norm


def layer_norm(x, weight, bias, eps=1e-5):
    """Each row of x (..., C) to mean 0 and variance 1, times weight (C,) plus bias (C,)."""
    return fused_forward(x, weight, bias, eps)[0]


def layer_norm_backward(dy, x, weight, eps=1e-5):
    """The gradients of `layer_norm`: dy and x (..., C), weight (C,) -> dx (..., C), dweight (C,), dbias (C,)."""
    _, cache = fused_forward(x, weight, np.zeros_like(weight), eps)
    return fused_backward(dy, cache)


def cases():
    """Rows, and a batch of sequences. eps is large, so that its place is seen."""
    rng = np.random.default_rng(4)
    return [
        {
            "x": 1 + 2 * rng.standard_normal((*rows, C)),
            "weight": rng.standard_normal(C),
            "bias": rng.standard_normal(C),
            "eps": eps,
        }
        for rows, C, eps in [((3,), 5, 0.5), ((2, 4), 6, 0.25)]
    ]


def backward_cases():
    """The same with a gradient dy of the result, and no bias."""
    rng = np.random.default_rng(5)
    forward = [(case["x"], case["weight"], case["eps"]) for case in cases()]
    return [{"dy": rng.standard_normal(x.shape), "x": x, "weight": weight, "eps": eps} for x, weight, eps in forward]


def _forward(x, weight, eps):
    """`layer_norm` of the arguments that a backward case has. The bias moves no gradient but its own."""
    return layer_norm(x, weight, np.zeros_like(weight), eps)


LAYER_NORM_BACKWARD_HINTS = (
    "g reaches x directly (g / σ), through μ (every x of the row moves it by 1/C) and through σ (x moves it by x̂ / C, "
    "and σ moves every x̂ by -x̂ / σ). Add up the three.",
    "dx = (g - mean(g) - x̂ mean(g ∘ x̂)) / σ; dweight sums dy ∘ x̂, dbias sums dy, over all rows.",
)

check = checker(
    Exercise(layer_norm, cases, results=("y",), plain=plain_layer_norm, edits=EDITS),
    Exercise(
        layer_norm_backward,
        backward_cases,
        results=("dx", "dweight", "dbias"),
        plain=plain_backward,
        edits=BACKWARD_EDITS,
        gradients=Gradients(_forward, {"dx": "x", "dweight": "weight"}),
        hints=LAYER_NORM_BACKWARD_HINTS,
    ),
)
