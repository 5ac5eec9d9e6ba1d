"""Usual mistakes in layer norm and its backward, as edits of two plain solutions."""

import numpy as np

from .checking import Edit


def plain_layer_norm(x, weight, bias, eps):
    """`layer_norm`, for the edits."""
    mu = x.mean(axis=-1, keepdims=True)
    sigma = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    normed = (x - mu) / sigma
    return normed * weight + bias


_MU, _VAR = "x.mean(axis=-1, keepdims=True)", "x.var(axis=-1, keepdims=True)"
EDITS = (
    Edit(
        "mean and variance are taken down the first axis; each row is normalised by itself: axis=-1.",
        {_MU: "x.mean(axis=0, keepdims=True)", _VAR: "x.var(axis=0, keepdims=True)"},
    ),
    Edit(
        "mean and variance are taken over the whole array; each row is normalised by itself: axis=-1.",
        {_MU: "x.mean()", _VAR: "x.var()"},
    ),
    Edit("weight and bias are missing.", {"normed * weight + bias": "normed"}),
    Edit("the mean is not subtracted.", {"x - mu": "x"}),
    Edit("the mean is added; subtract it.", {"x - mu": "x + mu"}),
    Edit(
        "keepdims=True is missing in the mean: one number for each row needs shape (..., 1).", {_MU: "x.mean(axis=-1)"}
    ),
    Edit("keepdims=True is missing in the variance: it needs shape (..., 1).", {_VAR: "x.var(axis=-1)"}),
    Edit(
        "the mean is taken down the first axis; each row has its own: axis=-1.", {_MU: "x.mean(axis=0, keepdims=True)"}
    ),
    Edit(
        "the variance is taken down the first axis; each row has its own: axis=-1.",
        {_VAR: "x.var(axis=0, keepdims=True)"},
    ),
    Edit("the mean is taken over the whole array; each row has its own: axis=-1.", {_MU: "x.mean()"}),
    Edit("the variance is taken over the whole array; each row has its own: axis=-1.", {_VAR: "x.var()"}),
    Edit("a sum stands where the mean should: divide by C.", {_MU: "x.sum(axis=-1, keepdims=True)"}),
    Edit(
        "the variance is divided by C - 1 (ddof=1); here it is divided by C.",
        {_VAR: "x.var(axis=-1, keepdims=True, ddof=1)"},
    ),
    Edit("the standard deviation stands where the variance should.", {_VAR: "x.std(axis=-1, keepdims=True)"}),
    Edit("eps is missing.", {" + eps)": ")"}),
    Edit("eps is subtracted; add it.", {" + eps)": " - eps)"}),
    Edit("eps is added to the root; it belongs under it.", {" + eps)": ") + eps"}),
    Edit("use the argument eps, and not a number of your own.", {"+ eps)": "+ 1e-5)"}),
    Edit("the root is missing: divide by σ, and not by the variance.", {"np.sqrt(": "("}),
    Edit("x is centred, and not yet divided by σ.", {") / sigma": ")"}),
    Edit("it is multiplied by σ; divide.", {") / sigma": ") * sigma"}),
    Edit("the weight is missing.", {" * weight": ""}),
    Edit("the weight is added; multiply by it.", {" * weight": " + weight"}),
    Edit("the bias is missing.", {" + bias": ""}),
    Edit("the bias is subtracted; add it.", {" + bias": " - bias"}),
    Edit("weight and bias have changed places.", {"normed * weight + bias": "normed * bias + weight"}),
    Edit("the bias is added after the weight, not before.", {"normed * weight + bias": "(normed + bias) * weight"}),
)


def plain_backward(dy, x, weight, eps):
    """`layer_norm_backward`, for the edits."""
    sigma = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    normed = (x - x.mean(axis=-1, keepdims=True)) / sigma
    g = dy * weight
    first = g.mean(axis=-1, keepdims=True)
    second = normed * (g * normed).mean(axis=-1, keepdims=True)
    dx = (g - first - second) / sigma
    dweight = (dy * normed).reshape(-1, len(weight)).sum(axis=0)
    dbias = dy.reshape(-1, len(weight)).sum(axis=0)
    return dx, dweight, dbias


_DW, _DB = "(dy * normed).reshape(-1, len(weight)).sum(axis=0)", "dy.reshape(-1, len(weight)).sum(axis=0)"
_FIRST, _SECOND = "g.mean(axis=-1, keepdims=True)", "(g * normed).mean(axis=-1, keepdims=True)"
BACKWARD_EDITS = (
    Edit(
        "this is g / σ, which takes μ and σ for constants. They move with x: two terms are missing.",
        {"g - first - second": "g"},
    ),
    Edit(
        "in dx, sums stand where means should: divide by C.",
        {"g.mean(axis=-1": "g.sum(axis=-1", "(g * normed).mean(": "(g * normed).sum("},
    ),
    Edit(
        "in dx, the means are taken over all rows; each row has its own: axis=-1.",
        {_FIRST: "g.mean()", _SECOND: "(g * normed).mean()"},
    ),
    Edit("in dx, mean(g) is taken over all rows; each row has its own: axis=-1.", {_FIRST: "g.mean()"}),
    Edit(
        "in dx, mean(g ∘ x̂) is taken over all rows; each row has its own: axis=-1.",
        {_SECOND: "(g * normed).mean()"},
    ),
    Edit(
        "in dx, only the first term is divided by σ; all three are.",
        {"(g - first - second) / sigma": "g / sigma - first - second"},
    ),
    Edit(
        "in σ, the variance is taken down the first axis; each row has its own: axis=-1.",
        {"x.var(axis=-1": "x.var(axis=0"},
    ),
    Edit(
        "in x̂, the mean is taken down the first axis; each row has its own: axis=-1.",
        {"x.mean(axis=-1": "x.mean(axis=0"},
    ),
    Edit("in σ, eps is subtracted; add it.", {" + eps)": " - eps)"}),
    Edit("in x̂, the mean is added; subtract it.", {"x - x.mean": "x + x.mean"}),
    Edit("in x̂, a sum stands where the mean should.", {"x.mean(": "x.sum("}),
    Edit("in σ, keepdims=True is missing.", {"x.var(axis=-1, keepdims=True)": "x.var(axis=-1)"}),
    Edit("in x̂, keepdims=True is missing in the mean.", {"x.mean(axis=-1, keepdims=True)": "x.mean(axis=-1)"}),
    Edit("in dx, g and x̂ are multiplied, not added, under the mean.", {"(g * normed).mean": "(g + normed).mean"}),
    Edit(
        "in dx, the whole is multiplied by the weight again: g has it already.",
        {") / sigma\n    dweight": ") / sigma * weight\n    dweight"},
    ),
    Edit("eps is missing in σ.", {" + eps)": ")"}),
    Edit("the root is missing in σ.", {"np.sqrt(": "("}),
    Edit("eps is added to the root; it belongs under it.", {" + eps)": ") + eps"}),
    Edit("in x̂, the mean is not subtracted.", {"(x - x.mean(axis=-1, keepdims=True))": "x"}),
    Edit("in x̂, the division by σ is missing.", {"keepdims=True)) / sigma": "keepdims=True))"}),
    Edit("the weight is missing: g = dy ∘ weight.", {"dy * weight": "dy"}),
    Edit("g is a product, dy ∘ weight.", {"dy * weight": "dy / weight"}),
    Edit("in dx, mean(g) is missing: it comes from μ.", {"g - first - second": "g - second"}),
    Edit("in dx, the term with x̂ is missing: it comes from σ.", {"g - first - second": "g - first"}),
    Edit("in dx, mean(g) has the wrong sign.", {"g - first -": "g + first -"}),
    Edit("in dx, the term with x̂ has the wrong sign.", {"- second)": "+ second)"}),
    Edit("in dx, the division by σ is missing.", {"second) / sigma": "second)"}),
    Edit("in dx, it is multiplied by σ; divide.", {"second) / sigma": "second) * sigma"}),
    Edit("in dx, a sum stands where mean(g) should.", {"g.mean(axis=-1": "g.sum(axis=-1"}),
    Edit("in dx, a sum stands where mean(g ∘ x̂) should.", {"(g * normed).mean(": "(g * normed).sum("}),
    Edit(
        "in dx, mean(g) is taken down the first axis; each row has its own: axis=-1.",
        {"first = g.mean(axis=-1": "first = g.mean(axis=0"},
    ),
    Edit(
        "in dx, mean(g ∘ x̂) is taken down the first axis; each row has its own: axis=-1.",
        {"normed).mean(axis=-1": "normed).mean(axis=0"},
    ),
    Edit(
        "in dx, keepdims=True is missing in mean(g).",
        {"first = g.mean(axis=-1, keepdims=True)": "first = g.mean(axis=-1)"},
    ),
    Edit(
        "in dx, keepdims=True is missing in mean(g ∘ x̂).",
        {"normed).mean(axis=-1, keepdims=True)": "normed).mean(axis=-1)"},
    ),
    Edit("in dx, mean(g ∘ x̂) is still to be multiplied by x̂.", {"normed * (g": "(g"}),
    Edit(
        "in dx, the mean of g ∘ x̂ is needed, and not the product of two means.",
        {"(g * normed).mean(axis=-1, keepdims=True)": "g.mean(axis=-1, keepdims=True)"},
    ),
    Edit("dweight takes x; it should be x̂.", {"(dy * normed).resh": "(dy * x).resh"}),
    Edit("dweight is a mean over the rows; it should be their sum.", {_DW: _DW.replace("sum", "mean")}),
    Edit(
        "weight serves all rows, so dweight is summed over all leading axes; here it keeps one.",
        {_DW: "(dy * normed).sum(axis=0)"},
    ),
    Edit(
        "dweight is summed along the row; it is summed over the rows: axis=0.", {_DW: _DW.replace("axis=0", "axis=1")}
    ),
    Edit("dweight has the weight in it: it is the sum of dy ∘ x̂.", {"(dy * normed).resh": "(g * normed).resh"}),
    Edit("dweight lacks x̂: it is the sum of dy ∘ x̂.", {"(dy * normed).resh": "dy.resh"}),
    Edit(
        "dbias is a mean over the rows; it should be their sum.",
        {"dbias = " + _DB: "dbias = " + _DB.replace("sum", "mean")},
    ),
    Edit(
        "dbias is summed over all leading axes; here it keeps one.",
        {"dbias = " + _DB: "dbias = dy.sum(axis=0)"},
    ),
    Edit(
        "dbias is summed along the row; it is summed over the rows: axis=0.",
        {"dbias = " + _DB: "dbias = " + _DB.replace("axis=0", "axis=1")},
    ),
    Edit("dbias has the weight in it: it is the sum of dy.", {"dbias = dy": "dbias = g"}),
    Edit("dweight and dbias have changed places.", {"return dx, dweight, dbias": "return dx, dbias, dweight"}),
)
