"""Exercise 16: four bits a number, and what becomes of an update that is merged into them."""

import numpy as np

from lora_np.nn.nf4 import NF4, dequantize_nf4, quantize_nf4

from .checking import Edit, Exercise, checker

UNIFORM = np.arange(-7, 8) / 7  # 15 even steps: the grid of a plain 4-bit integer


def quantise(W, levels, block_size):
    """W with each number replaced by the nearest of levels · absmax, absmax the largest |w| of its block."""
    if np.array_equal(levels, NF4):
        return dequantize_nf4(quantize_nf4(W, block_size, double_quant=False))
    return plain_quantise(W, levels, block_size)


def merge_errors(W, delta, rounded):
    """How far Q(W) + ΔW, Q(W + ΔW) and Q(Q(W) + ΔW) are from W + ΔW, in norms of ΔW. Q is the function `rounded`."""
    wanted = W + delta
    found = rounded(W) + delta, rounded(wanted), rounded(rounded(W) + delta)
    return tuple(np.linalg.norm(matrix - wanted) / np.linalg.norm(delta) for matrix in found)


def survives(W, delta, rounded):
    """The share of ΔW that Q(Q(W) + ΔW) - Q(W) still has in ΔW's direction: ⟨change, ΔW⟩ / ⟨ΔW, ΔW⟩."""
    base = rounded(W)
    return float(((rounded(base + delta) - base) * delta).sum() / (delta * delta).sum())


def quantise_cases():
    """NF4 and even steps; two blocks in a row, one, and one for several rows."""
    rng = np.random.default_rng(16)
    return [
        {"W": W, "levels": levels, "block_size": block_size}
        for W, levels, block_size in [
            (rng.standard_normal((6, 16)), NF4.astype(np.float64), 8),
            (3 * rng.standard_normal((5, 4)), UNIFORM, 4),
            (rng.standard_normal((4, 5)), UNIFORM, 10),
        ]
    ]


def plain_quantise(W, levels, block_size):
    """`quantise`, for the edits."""
    blocks = W.reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = blocks / absmax
    distance = np.abs(scaled[:, :, None] - levels)
    codes = distance.argmin(axis=-1)
    return (levels[codes] * absmax).reshape(W.shape)


_ABSMAX = "np.abs(blocks).max(axis=1, keepdims=True)"
QUANTISE_EDITS = (
    Edit("absmax is the largest absolute value: np.abs is missing.", {_ABSMAX: "blocks.max(axis=1, keepdims=True)"}),
    Edit(
        "absmax is the largest of all; each block has its own: axis=1, keepdims=True.",
        {_ABSMAX: "np.abs(blocks).max()"},
    ),
    Edit("absmax is taken down the columns of the blocks; each block is a row: axis=1.", {"axis=1": "axis=0"}),
    Edit(
        "keepdims=True is missing: one absmax for each block needs shape (blocks, 1).",
        {"axis=1, keepdims=True": "axis=1"},
    ),
    Edit("a mean stands where the largest should.", {_ABSMAX: "np.abs(blocks).mean(axis=1, keepdims=True)"}),
    Edit("a sum stands where the largest should.", {_ABSMAX: "np.abs(blocks).sum(axis=1, keepdims=True)"}),
    Edit("absmax is the largest |w|, not the standard deviation.", {_ABSMAX: "blocks.std(axis=1, keepdims=True)"}),
    Edit(
        "the blocks are divided by absmax before they are compared with the levels.",
        {"scaled = blocks / absmax": "scaled = blocks"},
    ),
    Edit("the blocks are multiplied by absmax; divide.", {"blocks / absmax": "blocks * absmax"}),
    Edit("the levels are still to be multiplied by absmax.", {"levels[codes] * absmax": "levels[codes]"}),
    Edit("the levels are divided by absmax; multiply.", {"levels[codes] * absmax": "levels[codes] / absmax"}),
    Edit(
        "it is the nearest level: the distance has no sign, np.abs.",
        {"np.abs(scaled[:, :, None] - levels)": "scaled[:, :, None] - levels"},
    ),
    Edit("this is the level that is farthest away: argmin.", {"argmin": "argmax"}),
    *(
        Edit("argmin is to go along the levels, the last axis.", {"argmin(axis=-1)": f"argmin({axis})"})
        for axis in ("axis=1", "axis=0", "")
    ),
    Edit(
        "these are the codes; the level with that code is levels[codes].", {"levels[codes] * absmax": "codes * absmax"}
    ),
    Edit("the result has the shape of W: reshape it back.", {".reshape(W.shape)": ""}),
    Edit(
        "the blocks go along the rows of W: reshape(-1, block_size).",
        {"W.reshape(-1, block_size)": "W.T.reshape(-1, block_size)"},
    ),
    Edit(
        "one block for each row of W is not what block_size says: reshape(-1, block_size).",
        {"W.reshape(-1, block_size)": "W.reshape(len(W), -1)"},
    ),
    Edit(
        "there are block_size numbers in a block; here there are block_size blocks.",
        {"W.reshape(-1, block_size)": "W.reshape(block_size, -1)"},
    ),
    Edit(
        "this rounds down: the nearest level may be the one above.",
        {"distance.argmin(axis=-1)": "np.searchsorted(levels, scaled, 'right') - 1"},
    ),
)


def _to_halves(W):
    return np.round(2 * W) / 2


def _to_nf4(W):
    return plain_quantise(W, NF4.astype(np.float64), 8)


def merge_cases():
    """A rough grid, and NF4, with an update of about a third of the weight."""
    rng = np.random.default_rng(17)
    return [
        {
            "W": rng.standard_normal((6, 8)),
            "delta": rng.standard_normal((6, 2)) @ rng.standard_normal((2, 8)) / 4,
            "rounded": rounded,
        }
        for rounded in (_to_halves, _to_nf4)
    ]


def plain_errors(W, delta, rounded):
    """`merge_errors`, for the edits."""
    wanted = W + delta
    beside = rounded(W) + delta
    last = rounded(W + delta)
    twice = rounded(rounded(W) + delta)
    size = np.linalg.norm(delta)
    first = np.linalg.norm(beside - wanted) / size
    second = np.linalg.norm(last - wanted) / size
    third = np.linalg.norm(twice - wanted) / size
    return first, second, third


def _in_all(new):
    """One change in each of the three lines with a norm."""
    return {f"np.linalg.norm({name} - wanted) / size": new.format(name) for name in ("beside", "last", "twice")}


ERROR_EDITS = (
    Edit("ΔW is added to what is wanted: W + ΔW.", {"wanted = W + delta": "wanted = W - delta"}),
    Edit("in the first one ΔW is subtracted; add it.", {"beside = rounded(W) + delta": "beside = rounded(W) - delta"}),
    Edit("in the second one ΔW is subtracted; add it.", {"last = rounded(W + delta)": "last = rounded(W - delta)"}),
    Edit(
        "in the third one ΔW is subtracted; add it.",
        {"twice = rounded(rounded(W) + delta)": "twice = rounded(rounded(W) - delta)"},
    ),
    Edit("they are compared with W; the model that is wanted is W + ΔW.", {"wanted = W + delta": "wanted = W"}),
    Edit(
        "they are compared with Q(W) + ΔW; here W + ΔW is wanted.",
        {"wanted = W + delta": "wanted = rounded(W) + delta"},
    ),
    Edit(
        "they are compared with Q(W + ΔW); here W + ΔW is wanted.",
        {"wanted = W + delta": "wanted = rounded(W + delta)"},
    ),
    Edit("they are compared with ΔW; W + ΔW is wanted.", {"wanted = W + delta": "wanted = delta"}),
    Edit(
        "the first one keeps the update as it is, beside the rounded weight: Q(W) + ΔW.",
        {"beside = rounded(W) + delta": "beside = rounded(W) + rounded(delta)"},
    ),
    Edit("in the first one the weight is rounded: Q(W) + ΔW.", {"beside = rounded(W) + delta": "beside = W + delta"}),
    Edit("in the first one ΔW is missing: Q(W) + ΔW.", {"beside = rounded(W) + delta": "beside = rounded(W)"}),
    Edit(
        "the second one rounds the sum: Q(W + ΔW).", {"last = rounded(W + delta)": "last = rounded(W) + rounded(delta)"}
    ),
    Edit("the second one is rounded: Q(W + ΔW).", {"last = rounded(W + delta)": "last = W + delta"}),
    Edit(
        "the third one is rounded once more, with ΔW in it: Q(Q(W) + ΔW).",
        {"twice = rounded(rounded(W) + delta)": "twice = rounded(W) + delta"},
    ),
    Edit(
        "in the third one ΔW comes after the first rounding: Q(Q(W) + ΔW).",
        {"twice = rounded(rounded(W) + delta)": "twice = rounded(rounded(W + delta))"},
    ),
    Edit(
        "in the third one ΔW is not rounded by itself.",
        {"twice = rounded(rounded(W) + delta)": "twice = rounded(rounded(W) + rounded(delta))"},
    ),
    Edit(
        "the errors are divided by the norm of W; by that of ΔW.",
        {"size = np.linalg.norm(delta)": "size = np.linalg.norm(W)"},
    ),
    Edit(
        "the errors are divided by the norm of W + ΔW; by that of ΔW.",
        {"size = np.linalg.norm(delta)": "size = np.linalg.norm(wanted)"},
    ),
    Edit("the errors are not divided by the norm of ΔW.", {"size = np.linalg.norm(delta)": "size = 1.0"}),
    Edit("the norms are squared.", _in_all("(np.linalg.norm({0} - wanted) / size) ** 2")),
    Edit(
        "this is the largest error; the norm is asked for.", _in_all("np.abs({0} - wanted).max() / np.abs(delta).max()")
    ),
    Edit("this is the largest error; the norm is asked for, in norms of ΔW.", _in_all("np.abs({0} - wanted).max()")),
    Edit(
        "this is the mean error; the norm is asked for.", _in_all("np.abs({0} - wanted).mean() / np.abs(delta).mean()")
    ),
    Edit(
        "the results are in another order: Q(W) + ΔW, Q(W + ΔW), Q(Q(W) + ΔW).",
        {"return first, second, third": "return second, first, third"},
    ),
    Edit(
        "the results are in another order: Q(W) + ΔW, Q(W + ΔW), Q(Q(W) + ΔW).",
        {"return first, second, third": "return first, third, second"},
    ),
)


def plain_survives(W, delta, rounded):
    """`survives`, for the edits."""
    base = rounded(W)
    change = rounded(base + delta) - base
    shared = (change * delta).sum()
    return shared / (delta * delta).sum()


SURVIVES_EDITS = (
    Edit(
        "ΔW is merged into the rounded weight: Q(Q(W) + ΔW).",
        {"rounded(base + delta) - base": "rounded(W + delta) - base"},
    ),
    Edit("the change is counted from the rounded weight: - Q(W).", {"+ delta) - base": "+ delta) - W"}),
    Edit("the weight is rounded before: Q(W).", {"base = rounded(W)": "base = W"}),
    Edit(
        "the rounded sum is compared, and not what merging has changed: subtract Q(W).", {"+ delta) - base": "+ delta)"}
    ),
    Edit("the sum is not rounded: then all of ΔW survives.", {"rounded(base + delta) - base": "base + delta - base"}),
    Edit("divide by ⟨ΔW, ΔW⟩, the sum of ΔW's squares.", {"shared / (delta * delta).sum()": "shared"}),
    Edit(
        "divide by ⟨ΔW, ΔW⟩, not by ⟨change, change⟩: it is the share of ΔW.",
        {"(delta * delta).sum()": "(change * change).sum()"},
    ),
    Edit(
        "the root is too much: ⟨ΔW, ΔW⟩ is the sum of squares itself.",
        {"(delta * delta).sum()": "np.sqrt((delta * delta).sum())"},
    ),
    Edit(
        "this is a cosine; the share of ΔW is divided by ⟨ΔW, ΔW⟩.",
        {"(delta * delta).sum()": "np.sqrt((delta * delta).sum() * (change * change).sum())"},
    ),
    Edit(
        "this is the size of the change; only its part along ΔW counts: ⟨change, ΔW⟩.",
        {"(change * delta).sum()": "(change * change).sum()"},
    ),
)


QUANTISE_HINTS = (
    "make rows of block_size numbers, and divide each by its largest |w|. Then compare each number with all levels.",
    "codes = np.abs(scaled[:, :, None] - levels).argmin(axis=-1) are the nearest levels' numbers. Take levels[codes].",
)

check = checker(
    Exercise(
        quantise,
        quantise_cases,
        ("the rounded weight",),
        plain=plain_quantise,
        edits=QUANTISE_EDITS,
        tolerance=1e-6,
        hints=QUANTISE_HINTS,
    ),
    Exercise(
        merge_errors,
        merge_cases,
        ("the error of Q(W) + ΔW", "the error of Q(W + ΔW)", "the error of Q(Q(W) + ΔW)"),
        plain=plain_errors,
        edits=ERROR_EDITS,
    ),
    Exercise(survives, merge_cases, ("the share",), plain=plain_survives, edits=SURVIVES_EDITS),
)
