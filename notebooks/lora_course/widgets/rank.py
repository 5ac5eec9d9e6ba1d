"""A real ΔW cut to rank k: its picture, its singular values, and the loss of the model with all ΔW cut so."""

import numpy as np

from .widget import Widget, packed, table

CORNER = 64  # rows and columns of ΔW that are shown


def corner(matrix):
    """The upper left part of ΔW in pieces of rank one, as bytes: {values, rows, columns, left, right}.

    The part's columns times the square roots of the singular values, each on a scale of its own, which is sent too.
    """
    U, S, Vt = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    U, V = U[:CORNER] * np.sqrt(S), Vt.T[:CORNER] * np.sqrt(S)
    scales = [np.abs(part).max(axis=0) + 1e-30 for part in (U, V)]
    return {
        "values": [float(f"{s:.4g}") for s in S],
        "rows": len(U),
        "columns": len(V),
        "shape": list(np.shape(matrix)),
        "scale": [float(f"{s:.4g}") for s in scales[0] * scales[1] / 127**2],
        "left": packed(U / scales[0], 1.0, signed=True),
        "right": packed(V / scales[1], 1.0, signed=True),
    }


def rank_slider(update, losses, base, whole):
    """A slider over the rank k of a ΔW, with the held-out loss at each.

    update  {layer: ΔW (out, in)}: at most six, each is 20 kB
    losses  {k: loss with every ΔW cut to rank k}; k = 0 is no update
    base    the loss before training; whole: of the trained model, nothing cut. Nats per byte
    """
    if not 0 < len(update) <= 6:
        raise ValueError(f"update must have 1 to 6 layers, got {len(update)}")
    layers = {name: corner(matrix) for name, matrix in update.items()}
    ranks = sorted(losses)
    data = {"layers": layers, "ranks": ranks, "base": base, "whole": whole}
    data["losses"] = [round(float(losses[k]), 4) for k in ranks]
    energy = np.cumsum(np.square(next(iter(layers.values()))["values"]))
    shares = [energy[min(k, len(energy)) - 1] / energy[-1] if k else 0.0 for k in ranks]
    rows = [(k, f"{share:.0%}", f"{loss:.3f}") for k, share, loss in zip(ranks, shares, data["losses"], strict=True)]
    caption = f"ΔW cut to rank k (energy: {next(iter(layers))})"
    return Widget("rank", data, "A real ΔW, cut to rank k", table(caption, ("k", "energy", "loss"), rows))
