"""Drawings of a trained update: three ways to use adapters, and its singular values."""

import numpy as np

from .parts import MUTED, ORANGE, SOLID, Canvas


def adapters():
    """Three ways to use adapters: merged into W, swapped beside it, or a different one for each row of a batch."""
    canvas = Canvas(590)
    canvas.label(24, 60, "Merged: one task, no added time", 16, "start", bold=True)
    canvas.box(40, 82, 60, 40, "x", "data")
    canvas.box(190, 76, 220, 52, "W + s BA", "frozen", 18)
    canvas.box(500, 82, 60, 40, "h", "data")
    canvas.arrow((100, 102), (188, 102))
    canvas.arrow((410, 102), (498, 102))
    canvas.label(24, 164, "Swapped: many tasks, one at a time; W stays", 16, "start", bold=True)
    canvas.box(40, 208, 60, 40, "x", "data")
    canvas.box(160, 182, 130, 42, "W", "frozen", 18)
    canvas.box(160, 244, 130, 42, "prose", "trained")
    canvas.box(316, 254, 120, 34, "capitals", "empty", 15)
    canvas.label(376, 304, "waits", 15.5, colour=MUTED)
    canvas.circle(470, 240, "+")
    canvas.box(510, 220, 60, 40, "h", "data")
    canvas.arrow((100, 228), (130, 228), (130, 203), (158, 203))
    canvas.arrow((130, 228), (130, 265), (157, 265))
    canvas.arrow((290, 203), (470, 203), (470, 223))
    canvas.arrow((292, 265), (303, 265), (303, 240), (453, 240), colour=ORANGE)
    canvas.arrow((486, 240), (508, 240))
    canvas.label(24, 336, "For each row: many tasks in one batch", 16, "start", bold=True)
    rows = (("row 1", "prose", "trained"), ("row 2", "capitals", "trained"), ("row 3", "no adapter", "empty"))
    canvas.box(190, 356, 90, 190, "W", "frozen", 18)
    for i, (row, name, kind) in enumerate(rows):
        y = 360 + 64 * i
        canvas.box(40, y + 8, 70, 34, row, "data", 15)
        canvas.arrow((110, y + 25), (188, y + 25))
        canvas.box(282, y + 4, 130, 42, name if kind == "empty" else f"+ {name}", kind)
        canvas.arrow((414, y + 25), (498, y + 25))
        canvas.box(500, y + 8, 60, 34, f"h{'₁₂₃'[i]}", "data", 15)
    canvas.label(300, 568, "Merged, W itself is changed. In the other two it is the base, bit for bit.", 15)
    return canvas.drawing(
        "adapters",
        "Three ways to use adapters",
        "Merged: x goes through one matrix, W + s BA, to h; one task, no added time. Swapped: x goes through W and "
        "through the active adapter, prose, and both are added; another adapter, capitals, waits, and W stays as it "
        "is. For each row: three rows of one batch go through the same W; the first adds the adapter prose, the "
        "second capitals, the third none. Merged, W itself is changed; in the other two it is the base, bit for bit.",
    )


def picture():
    """A 12 x 12 matrix with a form that one recognises: a thick ring with a bar through it."""
    y, x = np.mgrid[0:12, 0:12] - 5.5
    ring = np.abs(np.hypot(x, y) - 4.2) < 1.1
    return (ring | (np.abs(x - y) < 1.1)).astype(float)


def singular_values(matrix=None, cuts=(1, 2, 4)):
    """A matrix, its singular values, and what is left of it when all but the first k are cut off.

    matrix: at most 12 x 12, values from 0 to 1. cuts: three values of k.
    """
    matrix = picture() if matrix is None else np.asarray(matrix, dtype=float)
    U, S, Vt = np.linalg.svd(matrix)
    canvas, side = Canvas(450), 10.5
    pictures = {"the matrix": matrix} | {f"k = {k}": (U[:, :k] * S[:k]) @ Vt[:k] for k in cuts}
    left = []
    for i, (name, shown) in enumerate(pictures.items()):
        x = 18 + 146 * i
        kept = "" if i == 0 else f"\n{100 * (S[: cuts[i - 1]] ** 2).sum() / (S**2).sum():.0f}% kept"
        canvas.label(x + 6 * side, 268 + (9 if kept else 0), name + kept, 15, bold=not i)
        left.append(name + kept.replace("\n", ", "))
        for (row, column), value in np.ndenumerate(shown):
            canvas.cell(x + side * column, 120 + side * row, side, value)
    return _bars(canvas, S, left)


def _bars(canvas, S, told):
    """The singular values as bars below, and the Drawing."""
    canvas.label(300, 62, "A matrix is a sum of directions, the strongest first.", 16)
    canvas.label(300, 88, "What do the first k of them hold?", 16)
    canvas.label(24, 340, "Its singular values:", 15, "start")
    canvas.label(24, 390, "(kept: share of\nthe sum of\nsquares)", 15.5, "start", MUTED)
    for i, value in enumerate(S):
        height = 80 * value / S[0]
        canvas.add(
            f'<rect class="value" x="{190 + 32 * i}" y="{412 - height:.3f}" width="22" height="{height:.3f}"'
            f' fill="{SOLID["data"]}"/>'
        )
        canvas.label(201 + 32 * i, 428, f"{i + 1}", 15.5, colour=MUTED)
    return canvas.drawing(
        "singular-values",
        "What the strongest directions hold",
        "A 12 by 12 matrix, drawn as a picture, beside what is left when all but its k strongest directions are cut "
        f"off: {'; '.join(told)} (of the sum of squares). Below, its singular values as bars, falling from left to "
        f"right: {', '.join(f'{value:.2f}' for value in S)}.",
    )
