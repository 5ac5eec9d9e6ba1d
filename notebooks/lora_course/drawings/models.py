"""Drawings of the model: a block of GPT-2, one head of attention, who trains what, and a map of the variants."""

import math

from .parts import BLUE, MUTED, Canvas


def block(n_embd=768):
    """A block of GPT-2, with the places where LoRA goes. n_embd: its width."""
    C = n_embd
    rows = (
        (
            150,
            "attention: looks at earlier tokens",
            ("ln_1", ""),
            ("c_attn", f"{C} → {3 * C}"),
            ("attention", ""),
            ("c_proj", f"{C} → {C}"),
        ),
        (
            330,
            "MLP: each token by itself",
            ("ln_2", ""),
            ("c_fc", f"{C} → {4 * C}"),
            ("GELU", ""),
            ("c_proj", f"{4 * C} → {C}"),
        ),
    )
    canvas = Canvas(530)
    canvas.box(24, 46, 210, 34, "token + position", "data")
    canvas.label(248, 63, f"T tokens, {C} numbers each", 15, "start")
    canvas.arrow((54, 80), (54, 468), width=4, colour=BLUE)
    for y, what, *boxes in rows:
        canvas.arrow((54, y - 38), (140, y - 38), (140, y - 2))
        canvas.label(152, y - 38, what, 15, "start", MUTED)
        for i, (name, shape) in enumerate(boxes):
            x = 84 + 128 * i
            canvas.box(x, y, 112, 46, f"{name}\n{shape}" if shape else name, "frozen" if shape else "plain", 15.5)
            if shape:
                canvas.box(x + 16, y + 53, 80, 24, "+ BA", "trained", 15.5)
            if i < 3:
                canvas.arrow((x + 112, y + 23), (x + 127, y + 23), width=1.5)
        canvas.arrow((524, y + 77), (524, y + 92), (71, y + 92))
        canvas.circle(54, y + 92, "+")
    canvas.label(24, 486, "on to the next block; after the last one: ln_f, then the head", 15, "start")
    canvas.label(24, 510, "Grey: frozen matrices. Orange: where LoRA goes.", 15, "start", MUTED)
    return canvas.drawing(
        "block",
        "A transformer block, and where LoRA goes",
        f"A stream of {C} numbers for each token runs through the block from top to bottom and is only ever added to. "
        "First branch: layer norm ln_1, the matrix c_attn which makes queries, keys and values, attention, the matrix "
        "c_proj; the result is added to the stream. Second branch: ln_2, the matrix c_fc, GELU, another matrix c_proj; "
        "the result is added, too. LoRA goes beside the four matrices c_attn, c_proj, c_fc and c_proj. The stream goes "
        "on to the next block, and after the last one through ln_f to the head.",
    )


SCORES = ((1, 0, 2, 0, 1), (2, 1, 0, 1, 0), (0, 2, 1, 2, 1), (1, 2, 0, 1, 2), (0, 1, 2, 0, 1))


def causal_softmax(scores):
    """The rows of weights that attention makes of a square of scores: zero to the right of the diagonal."""
    powers = [[math.exp(s) if j <= i else 0.0 for j, s in enumerate(row)] for i, row in enumerate(scores)]
    return [[p / sum(row) for p in row] for row in powers]


def attention(tokens=("def", "f", "(", "x", ")"), scores=SCORES):
    """One head of causal attention: from queries and keys to a mean of values.

    tokens: five texts. scores: for each of them, its query times all keys over √D; the weights are computed from it.
    """
    weights, canvas, side = causal_softmax(scores), Canvas(530), 38
    for i, (name, what) in enumerate((("q", "what I look for"), ("k", "what I offer"), ("v", "what I pass on"))):
        x = 136 + 150 * i
        canvas.arrow((104, 56), (x + 20, 56), (x + 20, 76))
        canvas.box(x, 78, 40, 34, name, "data", 17)
        canvas.label(x + 20, 125, what, 14.5, colour=MUTED)
    canvas.box(24, 42, 80, 34, "x", "plain", 17)
    for x, table, kind in ((70, scores, "score"), (380, weights, "weight")):
        for i, token in enumerate(tokens):
            canvas.label(x - 8, 190 + side * (i + 0.5), token, 15, "end")
            canvas.label(x + side * (i + 0.5), 178, token, 15)
            for j in range(len(tokens)):
                masked, value = j > i, table[i][j]
                text = "−∞" if masked and kind == "score" else f"{value:.2f}" if kind == "weight" else f"{value}"
                strength = 0 if masked or kind == "score" else value
                canvas.cell(x + side * j, 190 + side * i, side, strength, "0" if masked and kind == "weight" else text)
    canvas.label(165, 152, "scores = q kᵀ / √D", 16, bold=True)
    canvas.label(475, 152, "weights", 16, bold=True)
    canvas.arrow((268, 285), (342, 285))
    canvas.label(304, 260, "softmax\nof each row", 15)
    canvas.label(165, 402, "−∞: a token may not\nlook at later ones", 15, colour=MUTED)
    canvas.label(475, 402, "each row\nadds up to 1", 15, colour=MUTED)
    canvas.arrow((475, 426), (475, 452))
    canvas.box(360, 454, 216, 34, "weights times v", "data", 16)
    canvas.arrow((360, 471), (316, 471))
    canvas.label(168, 471, "for each token, a mean of\nthe values it looks at", 16)
    canvas.label(
        300, 512, "One head. A model has several side by side; c_proj mixes their results.", 15.5, colour=MUTED
    )
    return canvas.drawing(
        "attention",
        "Causal attention: one head",
        "From x each token gets a query, a key and a value. The scores are queries times keys over the root of D, "
        f"here a {len(tokens)} by {len(tokens)} square for the tokens {' '.join(tokens)}; everything to the right of "
        "the diagonal is minus infinity, since a token may not look at later ones. Softmax turns each row into "
        "weights that add up to 1. The weights times the values are the result: for each token a mean of what it "
        "looks at.",
    )


PARTS = ("embedding", "norms", "attention W", "attention b", "MLP W", "MLP b", "head")
METHODS = {  # what is trained of each of the parts: all of it, A and B beside it, or nothing
    "full": dict.fromkeys(PARTS, "all"),
    "head\nonly": {"head": "all"},
    "BitFit": {"norms": "b only", "attention b": "all", "MLP b": "all"},
    "LoRA": {"attention W": "A, B", "MLP W": "A, B"},
    "LoRA +\nembed.": {"embedding": "all", "attention W": "A, B", "MLP W": "A, B", "head": "all"},
}


def who_trains():
    """Which parts of a model each method trains."""
    canvas = Canvas(430)
    for j, (method, trained) in enumerate(METHODS.items()):
        x = 136 + 91 * j
        canvas.label(x + 42, 68, method, 16, bold=True)
        for i, part in enumerate(PARTS):
            what = trained.get(part)
            canvas.box(x, 96 + 40 * i, 84, 34, what or "", "trained" if what else "frozen", 15)
    for i, part in enumerate(PARTS):
        canvas.label(126, 113 + 40 * i, part, 15, "end")
    canvas.label(300, 393, "Orange: trained. Grey: frozen. W: matrices, b: biases.", 15)
    canvas.label(300, 414, "Where head and embedding are one matrix, they are trained together.", 15.5, colour=MUTED)
    lines = "; ".join(
        f"{' '.join(method.split())}: {', '.join(f'{part} ({what})' for part, what in trained.items())}"
        for method, trained in METHODS.items()
    )
    return canvas.drawing("who-trains", "Who trains what", f"What each method trains. {lines}. The rest is frozen.")


VARIANTS = {  # what is changed: (its part of the formula, who changes it)
    "the start": ("A, B at step 0", ("PiSSA", "OLoRA", "orthogonal", "EVA", "LoftQ")),
    "the factor": ("s = α / r", ("rsLoRA: α / √r",)),
    "the rates": ("the optimizer", ("LoRA+: a higher rate for B",)),
    "the ranks": ("r for each layer", ("AdaLoRA",)),
    "the shape": ("BA", ("DoRA: lengths", "VeRA: vectors", "LoHa", "LoKr")),
    "no sum": ("W times something", ("IA³: factors", "OFT: rotations", "BOFT")),
    "the base": ("W", ("QLoRA: 4 bits", "LoftQ")),
}


def variants():
    """What each of LoRA's relatives changes in W + s B A."""
    canvas = Canvas(530)
    canvas.box(150, 44, 300, 40, "W′ = W + s · B · A", "trained", 20, bold=True)
    for i, (what, (where, names)) in enumerate(VARIANTS.items()):
        y = 106 + 57 * i
        canvas.box(12, y, 166, 44, f"{what}\n{where}", "data", 15.5)
        canvas.arrow((178, y + 22), (194, y + 22), width=1.5)
        x = 198
        for name in names:
            width = 18 + 7.6 * len(name) + 3 * sum(map(str.isupper, name))  # capitals are wide
            canvas.box(x, y + 6, width, 32, name, "plain", 15)
            x += width + 8
    canvas.label(300, 515, "LoftQ stands twice: its start makes up for what the 4-bit base lost.", 15.5, colour=MUTED)
    lines = "; ".join(f"{what} ({where}): {', '.join(names)}" for what, (where, names) in VARIANTS.items())
    return canvas.drawing(
        "variants",
        "A map of the variants: what each one changes",
        f"Plain LoRA is W prime = W + s B A. What is changed, and by whom: {lines}.",
    )
