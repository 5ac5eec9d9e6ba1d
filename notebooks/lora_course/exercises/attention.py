"""Exercise 04: causal attention of several heads."""

import numpy as np

from lora_np.autograd.fused import attention_forward

from .checking import Edit, Exercise, checker


def causal_attention(q, k, v):
    """softmax(q kᵀ / √D) v, each position up to itself. q, k, v (H, T, D) -> out (H, T, D), weights P (H, T, T)."""
    H, T, _ = q.shape
    identity = np.broadcast_to(np.eye(T, dtype=v.dtype), (1, H, T, T))  # with these values, the result is P itself
    values = np.concatenate([v[None], identity], axis=-1)
    padded = [np.concatenate([x[None], np.zeros((1, H, T, T), x.dtype)], axis=-1) for x in (q, k)]
    out, _ = attention_forward(*padded, values, scale=q.shape[-1] ** -0.5)
    return out[0, ..., : v.shape[-1]], out[0, ..., v.shape[-1] :]


def cases():
    """Two heads, one head, and one position that has only itself to look at."""
    rng = np.random.default_rng(7)
    sizes = [(2, 5, 3), (1, 4, 6), (2, 1, 4)]
    return [{name: rng.standard_normal((H, T, D)) for name in "qkv"} for H, T, D in sizes]


def large_scores(function):
    """None, or a sentence if large scores overflow."""
    q, k, v = (100 * x for x in np.random.default_rng(8).standard_normal((3, 2, 4, 5)))
    with np.errstate(all="ignore"):
        out, P = function(q, k, v)
    if np.isfinite(out).all() and np.isfinite(P).all():
        return None
    return "right for small scores, but large ones overflow. Subtract each row's largest score before the exponential."


def plain_attention(q, k, v):
    """`causal_attention`, for the edits."""
    T, D = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(D)
    scores = np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)
    P = np.exp(scores - scores.max(axis=-1, keepdims=True))
    P = P / P.sum(axis=-1, keepdims=True)
    return P @ v, P


_WHERE = "np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)"
EDITS = (
    *(
        Edit(
            "the mask is the wrong way round: here each position looks only at what comes after it.",
            {_WHERE: f"np.where(np.tril(np.ones((T, T), bool)), {low}, scores)"},
        )
        for low in ("-1e9", "-np.inf")
    ),
    *(
        Edit(
            "a position has to see itself too: s ≤ t, not s < t.",
            {_WHERE: f"np.where(np.tril(np.ones((T, T), bool), -1), scores, {low})"},
        )
        for low in ("-1e9", "-np.inf")
    ),
    Edit(
        "the mask is applied after the softmax, so that the weights of a row no longer add up to 1.",
        {_WHERE: "scores", "return P @ v, P": "P = P * np.tril(np.ones((T, T), bool))\n    return P @ v, P"},
    ),
    Edit(
        "every number is NaN. If a mask of 0 and 1 is multiplied by -np.inf: 0 · ∞ is NaN. Use np.where.",
        {_WHERE: "np.nan * scores"},
    ),
    *(
        Edit(
            f"the softmax runs over the {over}; each query's weights add up to 1: axis=-1.",
            {"scores.max(axis=-1": f"scores.max(axis={axis}", "P.sum(axis=-1": f"P.sum(axis={axis}"},
        )
        for over, axis in (("queries", -2), ("heads", 0))
    ),
    Edit(
        "the largest score is taken over the heads; it is each row's: axis=-1.",
        {"scores.max(axis=-1": "scores.max(axis=0"},
    ),
    Edit("a mean stands where the softmax divides by the sum of the row.", {"P.sum(axis=-1": "P.mean(axis=-1"}),
    Edit("the largest score is added; subtract it.", {"scores - scores.max": "scores + scores.max"}),
    Edit(
        "k.T turns all three axes round; k.swapaxes(-1, -2) leaves the heads in front.", {"k.swapaxes(-1, -2)": "k.T"}
    ),
    Edit("k has to be transposed for the product: k.swapaxes(-1, -2).", {"k.swapaxes(-1, -2)": "k"}),
    Edit(
        "the heads and the positions of k have changed places: swapaxes(-1, -2).",
        {"k.swapaxes(-1, -2)": "k.swapaxes(0, 1)"},
    ),
    Edit("queries and keys have changed places: q kᵀ has a row for each query.", {"q @ k.swapaxes": "k @ q.swapaxes"}),
    Edit("the scores are not divided by √D.", {" / np.sqrt(D)": ""}),
    Edit("the scores are multiplied by √D; divide.", {" / np.sqrt(D)": " * np.sqrt(D)"}),
    Edit("the scores are divided by D; it should be √D.", {"np.sqrt(D)": "D"}),
    Edit("√D has D in it, the size of a head; here it is the number of positions.", {"np.sqrt(D)": "np.sqrt(T)"}),
    Edit("√D has D in it, the size of a head; here it is the number of heads.", {"np.sqrt(D)": "np.sqrt(len(q))"}),
    Edit("there is no mask: each position sees what comes after it.", {_WHERE: "scores"}),
    Edit(
        "the mask is the wrong way round: here each position looks at itself and at what comes after it.",
        {"np.tril(": "np.triu("},
    ),
    Edit("the mask is one place off: each position sees one place ahead.", {"bool)),": "bool), 1),"}),
    Edit("hidden scores are 0, and e^0 = 1 is a weight like any other: they have to be -infinity.", {"-np.inf)": "0)"}),
    Edit("hidden scores are +infinity; they have to be -infinity.", {"-np.inf)": "np.inf)"}),
    Edit(
        "the softmax lacks its division: the weights of a row add up to 1.", {"P / P.sum(axis=-1, keepdims=True)": "P"}
    ),
    Edit(
        "the softmax runs over the queries; each query's weights add up to 1: axis=-1.",
        {"P.sum(axis=-1": "P.sum(axis=-2"},
    ),
    Edit(
        "the softmax runs over the heads; each query's weights add up to 1: axis=-1.", {"P.sum(axis=-1": "P.sum(axis=0"}
    ),
    Edit(
        "the softmax divides by the sum of everything: axis=-1, keepdims=True.",
        {"P.sum(axis=-1, keepdims=True)": "P.sum()"},
    ),
    Edit("keepdims=True is missing in the softmax's sum.", {"P.sum(axis=-1, keepdims=True)": "P.sum(axis=-1)"}),
    Edit(
        "keepdims=True is missing where the largest score is taken.",
        {"scores.max(axis=-1, keepdims=True)": "scores.max(axis=-1)"},
    ),
    Edit(
        "the values are mixed by Pᵀ; row t of P has the weights of position t: P @ v.",
        {"return P @ v": "return P.swapaxes(-1, -2) @ v"},
    ),
    Edit("the values are missing: out = P v.", {"return P @ v": "return P"}),
    Edit("the keys are mixed; it should be the values: P @ v.", {"P @ v, P": "P @ k, P"}),
    Edit("P holds scores: return the weights, after the softmax.", {"@ v, P": "@ v, scores"}),
    Edit("out and P are returned in the wrong order.", {"return P @ v, P": "return P, P @ v"}),
)


check = checker(
    Exercise(
        causal_attention,
        cases,
        results=("out", "P"),
        rules=(large_scores,),
        plain=plain_attention,
        edits=EDITS,
    ),
)
