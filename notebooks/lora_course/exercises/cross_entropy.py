"""Exercise 02: softmax cross-entropy and its gradient."""

import numpy as np

from lora_np.autograd.fused import cross_entropy_backward, cross_entropy_forward

from .checking import Edit, Exercise, Gradients, checker


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


def plain_cross_entropy(logits, targets):
    """`cross_entropy`, for the edits."""
    N = len(targets)
    z = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(z)
    sums = e.sum(axis=1, keepdims=True)
    p = e / sums
    picked = z[np.arange(N), targets] - np.log(sums[:, 0])
    loss = -picked.mean()
    d = p.copy()
    d[np.arange(N), targets] -= 1
    d = d / N
    return loss, d


_PICKED = "picked = z[np.arange(N), targets] - np.log(sums[:, 0])"
EDITS = (
    Edit(
        "the softmax runs down the columns: the probabilities of one row add up to 1, so it is axis=1.",
        {
            "logits - logits.max(axis=1, keepdims=True)": "logits",
            "e.sum(axis=1": "e.sum(axis=0",
            "np.log(sums[:, 0])": "np.log(sums[0, targets])",
        },
    ),
    Edit(
        "the logit of the target alone is no probability: ln Σ e^z is missing.",
        {_PICKED: "picked = logits[np.arange(N), targets]"},
    ),
    Edit(
        "the target's logit is added to ln Σ e^z; it has to be subtracted.",
        {_PICKED: "picked = -logits[np.arange(N), targets] - np.log(np.exp(logits).sum(axis=1))"},
    ),
    Edit(
        "the largest logit is subtracted in ln Σ e^z, and not from z[target]: take both from the same logits.",
        {_PICKED: "picked = logits[np.arange(N), targets] - np.log(sums[:, 0])"},
    ),
    Edit(
        "the largest logit is subtracted from z[target], and not in ln Σ e^z: take both from the same logits.",
        {_PICKED: "picked = z[np.arange(N), targets] - np.log(np.exp(logits).sum(axis=1))"},
    ),
    Edit(
        "1 is subtracted after the division by N: subtract first, then divide the whole row.",
        {"p.copy()": "p / N", "    d = d / N\n": ""},
    ),
    Edit(
        "the largest logit is taken down the columns, so that rows differ: axis=1.",
        {"logits.max(axis=1": "logits.max(axis=0"},
    ),
    Edit(
        "keepdims=True is missing where the largest logit is taken: it needs shape (N, 1).",
        {"max(axis=1, keepdims=True)": "max(axis=1)"},
    ),
    Edit(
        "the largest logit is added; subtract it, so that nothing overflows.",
        {"logits - logits.max": "logits + logits.max"},
    ),
    Edit(
        "a mean stands where ln Σ e^z needs a sum.", {"e.sum(axis=1, keepdims=True)": "e.mean(axis=1, keepdims=True)"}
    ),
    Edit(
        "the target's logit has the wrong sign: ln Σ e^z - z[target].",
        {"z[np.arange(N), targets] - np": "-z[np.arange(N), targets] - np"},
    ),
    Edit("ln Σ e^z is missing, or has the wrong sign.", {" - np.log(sums[:, 0])": ""}),
    Edit("ln Σ e^z is made with log2: use the natural logarithm, np.log.", {"np.log(sums": "np.log2(sums"}),
    Edit("the logarithm of Σ e^z is missing.", {"np.log(sums[:, 0])": "sums[:, 0]"}),
    Edit(
        "dlogits is made of e^z less its largest; it needs the probabilities: divide by the sum.",
        {"p = e / sums": "p = e"},
    ),
    Edit(
        "the softmax runs down the columns: the probabilities of one row add up to 1: axis=1.",
        {"e.sum(axis=1": "e.sum(axis=0"},
    ),
    Edit(
        "the softmax is divided by the sum of everything; each row has its own: axis=1, keepdims=True.",
        {"e.sum(axis=1, keepdims=True)": "np.array([[e.sum()]])"},
    ),
    Edit(
        "keepdims=True is missing in the sum: one number for each row needs shape (N, 1).",
        {"e.sum(axis=1, keepdims=True)": "e.sum(axis=1)"},
    ),
    Edit("the loss is the sum over the rows; it should be the mean.", {"-picked.mean()": "-picked.sum()"}),
    Edit("one loss for each row: take their mean.", {"-picked.mean()": "-picked"}),
    Edit("the sign is wrong: the loss is minus the logarithm.", {"-picked.mean()": "picked.mean()"}),
    Edit(
        "the logarithm is missing: it is -ln p.",
        {"z[np.arange(N), targets] - np.log(sums[:, 0])": "p[np.arange(N), targets]"},
    ),
    Edit(
        "use the natural logarithm, np.log.",
        {"z[np.arange(N), targets] - np.log(sums[:, 0])": "np.log2(p[np.arange(N), targets])"},
    ),
    Edit(
        "use the natural logarithm, np.log.",
        {"z[np.arange(N), targets] - np.log(sums[:, 0])": "np.log10(p[np.arange(N), targets])"},
    ),
    Edit("the loss is divided by N·V; only the N rows are averaged.", {"-picked.mean()": "-picked.sum() / p.size"}),
    Edit("dlogits is not divided by N: the loss is a mean.", {"d / N": "d"}),
    Edit("dlogits is divided by N·V; divide by N.", {"d / N": "d / d.size"}),
    Edit("dlogits is divided by V, not by N.", {"d / N": "d / p.shape[1]"}),
    Edit("dlogits has the wrong sign: predicted minus true.", {"d / N": "-d / N"}),
    Edit("1 at the target is still to be subtracted in dlogits.", {"d[np.arange(N), targets] -= 1\n": "pass\n"}),
    Edit("at the target, 1 is to be subtracted in dlogits, not added.", {"-= 1": "+= 1"}),
    Edit(
        "1 is subtracted in whole columns of dlogits; one entry of each row is [np.arange(N), targets].",
        {"d[np.arange(N), targets] -= 1": "d[:, targets] -= 1"},
    ),
    Edit(
        "the loss takes whole columns; one entry of each row is [np.arange(N), targets].",
        {_PICKED: "picked = z[:, targets] - np.log(sums[:, 0])"},
    ),
    Edit("dlogits is made of e^z; it needs the probabilities.", {"p.copy()": "e.copy()"}),
    Edit("dlogits is made of the logits; it needs the probabilities.", {"p.copy()": "logits.copy()"}),
    Edit("loss and dlogits are returned in the wrong order.", {"return loss, d": "return d, loss"}),
    Edit("the logits are not exponentiated: softmax is of e^z.", {"np.exp(z)": "z"}),
    Edit("the exponent has the wrong sign: e^z.", {"np.exp(z)": "np.exp(-z)"}),
)


CROSS_ENTROPY_HINTS = (
    "the derivative of ln Σ e^z is p, that of z[target] is 1 at the target: their difference, divided by N.",
    "dlogits = (p - onehot) / N, where onehot is 1 at each row's target.",
)

check = checker(
    Exercise(
        cross_entropy,
        cases,
        results=("loss", "dlogits"),
        plain=plain_cross_entropy,
        edits=EDITS,
        rules=(large_logits,),
        gradients=Gradients(
            lambda logits, targets: cross_entropy(logits, targets)[0], {"dlogits": "logits"}, cotangent=None
        ),
        hints=CROSS_ENTROPY_HINTS,
    ),
)
