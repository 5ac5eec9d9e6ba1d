"""Exercise 02: softmax cross-entropy and its gradient."""

import numpy as np

from lora_np.autograd.fused import cross_entropy_backward, cross_entropy_forward

from .checking import Exercise, Gradients, Mistake, checker


def cross_entropy(logits, targets):
    """The mean over rows of -ln softmax(logits)[target], and its gradient. logits (N, V), targets (N,)."""
    loss, cache = cross_entropy_forward(logits, targets)
    return loss, cross_entropy_backward(1.0, cache)[0]


def cases():
    """Logits and targets; a symbol may be the target of several rows."""
    rng = np.random.default_rng(3)
    return [
        {"logits": 2 * rng.standard_normal((rows, V)), "targets": rng.integers(0, V, rows)}
        for rows, V in [(5, 4), (3, 7)]
    ]


def _softmax(logits, axis=1):
    e = np.exp(logits)
    return e / e.sum(axis=axis, keepdims=True)


def _of(p, targets):
    """Each row's entry at its target."""
    return p[np.arange(len(targets)), targets]


def _loss(give):
    """A mistake in the loss: `give(logits, p, targets)` in its place, the gradient right."""
    return lambda logits, targets: (
        give(logits, _softmax(logits), targets),
        cross_entropy(logits, targets)[1],
    )


def _gradient(give):
    """A mistake in the gradient alone: `give(p, onehot)`."""
    return lambda logits, targets: (
        cross_entropy(logits, targets)[0],
        give(_softmax(logits), np.eye(logits.shape[1])[targets]),
    )


def _softmax_over_rows(logits, targets):
    p = _softmax(logits, axis=0)
    return -np.log(_of(p, targets)).mean(), (p - np.eye(logits.shape[1])[targets]) / len(p)


MISTAKES = (
    Mistake(
        "the softmax runs down the columns: the probabilities of one row add up to 1, so it is axis=1.",
        _softmax_over_rows,
    ),
    Mistake(
        "the loss is the sum over the rows; it should be the mean.", _loss(lambda z, p, c: -np.log(_of(p, c)).sum())
    ),
    Mistake("one loss for each row: take their mean.", _loss(lambda z, p, c: -np.log(_of(p, c)))),
    Mistake(
        "the loss is divided by N·V; only the N rows are averaged.",
        _loss(lambda z, p, c: -np.log(_of(p, c)).sum() / p.size),
    ),
    Mistake("the sign is wrong: it is minus the logarithm.", _loss(lambda z, p, c: np.log(_of(p, c)).mean())),
    Mistake("the logarithm is missing: it is -ln p.", _loss(lambda z, p, c: -_of(p, c).mean())),
    Mistake("use the natural logarithm, np.log.", _loss(lambda z, p, c: -np.log2(_of(p, c)).mean())),
    Mistake(
        "the logit of the target alone is no probability: ln Σ e^z is missing.",
        _loss(lambda z, p, c: -_of(z, c).mean()),
    ),
    Mistake(
        "the target's logit is added to ln Σ e^z; it has to be subtracted.",
        _loss(lambda z, p, c: (np.log(np.exp(z).sum(axis=1)) + _of(z, c)).mean()),
    ),
    Mistake(
        "the largest logit is subtracted in ln Σ e^z, and not from z[target]: take both from the same logits.",
        _loss(lambda z, p, c: -np.log(_of(p, c)).mean() - z.max(axis=1).mean()),
    ),
    Mistake(
        "the largest logit is subtracted from z[target], and not in ln Σ e^z: take both from the same logits.",
        _loss(lambda z, p, c: -np.log(_of(p, c)).mean() + z.max(axis=1).mean()),
    ),
    Mistake(
        "[:, targets] takes whole columns. One entry of each row is [np.arange(N), targets].",
        _loss(lambda z, p, c: -np.log(p[:, c]).mean()),
    ),
    Mistake(
        "1 is subtracted in whole columns, [:, targets]. One entry of each row is [np.arange(N), targets].",
        _gradient(lambda p, one: (p - one.any(axis=0)) / len(p)),
    ),
    Mistake("dlogits is not divided by N: the loss is a mean.", _gradient(lambda p, one: p - one)),
    Mistake("dlogits has the wrong sign: predicted minus true.", _gradient(lambda p, one: (one - p) / len(p))),
    Mistake("dlogits is p / N: 1 at the target is still to be subtracted.", _gradient(lambda p, one: p / len(p))),
    Mistake(
        "1 is subtracted after the division by N: subtract first, then divide the whole row.",
        _gradient(lambda p, one: p / len(p) - one),
    ),
    Mistake("dlogits is divided by N·V; divide by N.", _gradient(lambda p, one: (p - one) / p.size)),
)


def large_logits(function):
    """None, or a sentence if large logits overflow, or a probability that rounds to 0 makes the loss infinite."""
    logits, targets = np.array([[1000.0, 998.0, 0.0], [-1000.0, 0.0, 3.0]]), np.array([1, 0])
    with np.errstate(all="ignore"):
        loss, dlogits = function(logits.copy(), targets)
    expected, gradient = cross_entropy(logits, targets)
    if np.isnan(loss) or np.isnan(dlogits).any():
        return "right for small logits, but e^1000 overflows. Subtract each row's largest logit first."
    if not np.isclose(loss, expected):
        return "right for small logits, but a probability may round to 0: take ln Σ e^z - z[target], not the log of p."
    return None if np.allclose(dlogits, gradient) else "right for small logits, but the gradient is not for large ones."


check = checker(
    Exercise(
        cross_entropy,
        cases,
        results=("loss", "dlogits"),
        mistakes=MISTAKES,
        rules=(large_logits,),
        gradients=Gradients(
            lambda logits, targets: cross_entropy(logits, targets)[0], {"dlogits": "logits"}, cotangent=None
        ),
    ),
)
