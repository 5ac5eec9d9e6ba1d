"""Exercise 03: layer norm and its gradients."""

import numpy as np

from lora_np.autograd.fused import layer_norm_backward as fused_backward
from lora_np.autograd.fused import layer_norm_forward as fused_forward

from .checking import Exercise, Gradients, Mistake, checker
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


def _mean(x, axis=-1):
    return x.mean(axis=axis, keepdims=True)


def _normed(x, eps, axis=-1):
    return (x - _mean(x, axis)) / np.sqrt(x.var(axis=axis, keepdims=True) + eps)


def _scaled(normed):
    """A mistake in x̂ = normed(x, eps); weight and bias right."""
    return lambda x, weight, bias, eps: normed(x, eps) * weight + bias


def _deviation(x, **options):
    return x.std(axis=-1, keepdims=True, **options)


MISTAKES = (
    Mistake("eps is missing.", _scaled(lambda x, eps: (x - _mean(x)) / _deviation(x))),
    Mistake(
        "eps is added to the root; it belongs under it.", _scaled(lambda x, e: (x - _mean(x)) / (_deviation(x) + e))
    ),
    Mistake("use the argument eps, and not a number of your own.", _scaled(lambda x, eps: _normed(x, 1e-5))),
    Mistake(
        "the variance is divided by C - 1 (ddof=1); here it is divided by C.",
        _scaled(lambda x, eps: (x - _mean(x)) / np.sqrt(_deviation(x, ddof=1) ** 2 + eps)),
    ),
    Mistake(
        "mean and variance are taken down the first axis; each row is normalised by itself: axis=-1.",
        _scaled(lambda x, eps: _normed(x, eps, axis=0)),
    ),
    Mistake(
        "mean and variance are taken over the whole array; each row is normalised by itself: axis=-1.",
        _scaled(lambda x, eps: _normed(x, eps, axis=None)),
    ),
    Mistake(
        "the root is missing: divide by σ, and not by the variance.",
        _scaled(lambda x, eps: (x - _mean(x)) / (x.var(axis=-1, keepdims=True) + eps)),
    ),
    Mistake(
        "the mean is not subtracted.",
        _scaled(lambda x, eps: x / np.sqrt(x.var(axis=-1, keepdims=True) + eps)),
    ),
    Mistake("x is centred, and not yet divided by σ.", _scaled(lambda x, eps: x - _mean(x))),
    Mistake("weight and bias are missing.", lambda x, weight, bias, eps: _normed(x, eps)),
    Mistake("the weight is missing.", lambda x, weight, bias, eps: _normed(x, eps) + bias),
    Mistake("the bias is missing.", lambda x, weight, bias, eps: _normed(x, eps) * weight),
    Mistake("the bias is added after the weight, not before.", lambda x, w, b, eps: (_normed(x, eps) + b) * w),
)


def _dx(make):
    """A mistake in dx = make(g, x̂, σ, dy) alone."""

    def wrong(dy, x, weight, eps):
        sigma = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
        return make(dy * weight, _normed(x, eps), sigma, dy), *layer_norm_backward(dy, x, weight, eps)[1:]

    return wrong


def _dweight(make):
    """A mistake in dweight = make(dy, x̂, x, weight) alone."""

    def wrong(dy, x, weight, eps):
        dx, _, dbias = layer_norm_backward(dy, x, weight, eps)
        return dx, make(dy, _normed(x, eps), x, weight), dbias

    return wrong


def _dbias(make):
    """A mistake in dbias = make(dy, weight) alone."""
    return lambda dy, x, weight, eps: (*layer_norm_backward(dy, x, weight, eps)[:2], make(dy, weight))


def _over_rows(x, reduce=np.sum):
    return reduce(x.reshape(-1, x.shape[-1]), axis=0)


BACKWARD_MISTAKES = (
    Mistake(
        "this is g / σ, which takes μ and σ for constants. They move with x: two terms are missing.",
        _dx(lambda g, n, s, dy: g / s),
    ),
    Mistake("in dx, mean(g) is missing: it comes from μ.", _dx(lambda g, n, s, dy: (g - n * _mean(g * n)) / s)),
    Mistake("in dx, the term with x̂ is missing: it comes from σ.", _dx(lambda g, n, s, dy: (g - _mean(g)) / s)),
    Mistake(
        "in dx, the weight is missing: g = dy ∘ weight.",
        _dx(lambda g, n, s, dy: (dy - _mean(dy) - n * _mean(dy * n)) / s),
    ),
    Mistake("in dx, the division by σ is missing.", _dx(lambda g, n, s, dy: g - _mean(g) - n * _mean(g * n))),
    Mistake(
        "in dx, sums stand where means should: divide by C.",
        _dx(lambda g, n, s, dy: (g - g.sum(-1, keepdims=True) - n * (g * n).sum(-1, keepdims=True)) / s),
    ),
    Mistake(
        "in dx, the means are taken over all rows; each row has its own: axis=-1.",
        _dx(lambda g, n, s, dy: (g - g.mean() - n * (g * n).mean()) / s),
    ),
    Mistake(
        "in dx, mean(g) is taken over all rows; each row has its own: axis=-1.",
        _dx(lambda g, n, s, dy: (g - g.mean() - n * _mean(g * n)) / s),
    ),
    Mistake(
        "in dx, mean(g ∘ x̂) is taken over all rows; each row has its own: axis=-1.",
        _dx(lambda g, n, s, dy: (g - _mean(g) - n * (g * n).mean()) / s),
    ),
    Mistake(
        "in dx, only the first term is divided by σ; all three are.",
        _dx(lambda g, n, s, dy: g / s - _mean(g) - n * _mean(g * n)),
    ),
    Mistake(
        "in dx, mean(g ∘ x̂) is still to be multiplied by x̂.", _dx(lambda g, n, s, dy: (g - _mean(g) - _mean(g * n)) / s)
    ),
    Mistake(
        "dweight and dbias have changed places.",
        lambda *case: tuple(layer_norm_backward(*case)[i] for i in (0, 2, 1)),
    ),
    Mistake("dweight takes x; it should be x̂.", _dweight(lambda dy, n, x, w: _over_rows(dy * x))),
    Mistake(
        "weight serves all rows, so dweight is summed over all leading axes and has shape (C,).",
        _dweight(lambda dy, n, x, w: (dy * n).sum(axis=0)),
    ),
    Mistake(
        "dweight is a mean over the rows; it should be their sum.",
        _dweight(lambda dy, n, x, w: _over_rows(dy * n, np.mean)),
    ),
    Mistake(
        "dweight has the weight in it: it is the sum of dy ∘ x̂.", _dweight(lambda dy, n, x, w: _over_rows(dy * n * w))
    ),
    Mistake("dbias is summed over all leading axes and has shape (C,).", _dbias(lambda dy, w: dy.sum(axis=0))),
    Mistake("dbias is a mean over the rows; it should be their sum.", _dbias(lambda dy, w: _over_rows(dy, np.mean))),
    Mistake("dbias has the weight in it: it is the sum of dy.", _dbias(lambda dy, w: _over_rows(dy * w))),
)


def _forward(x, weight, eps):
    """`layer_norm` of the arguments that a backward case has. The bias moves no gradient but its own."""
    return layer_norm(x, weight, np.zeros_like(weight), eps)


LAYER_NORM_BACKWARD_HINTS = (
    "g reaches x directly (g / σ), through μ (every x of the row moves it by 1/C) and through σ (x moves it by x̂ / C, "
    "and σ moves every x̂ by -x̂ / σ). Add up the three.",
    "dx = (g - mean(g) - x̂ mean(g ∘ x̂)) / σ; dweight sums dy ∘ x̂, dbias sums dy, over all rows.",
)

check = checker(
    Exercise(layer_norm, cases, results=("y",), mistakes=MISTAKES, plain=plain_layer_norm, edits=EDITS),
    Exercise(
        layer_norm_backward,
        backward_cases,
        results=("dx", "dweight", "dbias"),
        mistakes=BACKWARD_MISTAKES,
        plain=plain_backward,
        edits=BACKWARD_EDITS,
        gradients=Gradients(_forward, {"dx": "x", "dweight": "weight"}),
        hints=LAYER_NORM_BACKWARD_HINTS,
    ),
)
