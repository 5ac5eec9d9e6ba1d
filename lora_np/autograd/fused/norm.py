"""Normalisation of rows: LayerNorm, and RMSNorm, which leaves the mean alone.

The plain formulas are in `reference.py`. Here a block of rows goes through all steps while it is in the processor's
cache, and 1/σ is saved in the place of σ.
"""

from ..devices import array_module
from .blocks import blocks


def layer_norm_forward(x, weight, bias, eps=1e-5, needs=(True, True, True)):
    r"""y = x̂ ∘ w + b with x̂ = (x - μ) / σ, μ and σ over the last axis, σ = sqrt(var + eps). (Ba et al., 2016.)

    x (..., C), weight (C,), bias (C,) -> y (..., C). Saved: x̂ and 1/σ.

    Let g = dy∘w be the gradient of x̂. Since μ and σ depend on every x in the row,
        dx = (g - mean(g) - x̂ mean(g∘x̂)) / σ,      dw = Σ_rows dy∘x̂,      db = Σ_rows dy.
    The two means remove what of g would shift or scale the whole row: x̂ can move in neither direction.
    """
    xp, C = array_module(x), x.shape[-1]
    rows = x.reshape(-1, C)
    y, normed, inv_std = xp.empty_like(rows), xp.empty_like(rows), xp.empty((len(rows), 1), x.dtype)
    for block in blocks(len(rows), rows.itemsize * C, xp):
        mean = xp.einsum("nc->n", rows[block])[:, None] / C
        centred = xp.subtract(rows[block], mean, out=normed[block])
        variance = xp.einsum("nc,nc->n", centred, centred)[:, None] / C
        inv_std[block] = 1 / xp.sqrt(variance + eps)
        centred *= inv_std[block]
        xp.multiply(centred, weight, out=y[block])
        y[block] += bias
    saved = (normed, inv_std) if needs[0] else (normed if needs[1] else None, None)
    return y.reshape(x.shape), (saved, weight if needs[0] else None, x.shape, needs)


def layer_norm_backward(dy, cache):
    """dx, dweight, dbias of `layer_norm_forward`."""
    (normed, inv_std), weight, shape, needs = cache
    xp, C = array_module(dy), shape[-1]
    dy = dy.reshape(-1, C)
    dx = None
    if needs[0]:
        dx = xp.empty_like(dy)
        for block in blocks(len(dy), dy.itemsize * C, xp):
            g = xp.multiply(dy[block], weight, out=dx[block])
            along = xp.einsum("nc,nc->n", g, normed[block])[:, None] / C
            g -= xp.einsum("nc->n", g)[:, None] / C
            g -= normed[block] * along
            g *= inv_std[block]
        dx = dx.reshape(shape)
    dw = xp.einsum("nc,nc->c", dy, normed) if needs[1] else None
    return dx, dw, dy.sum(axis=0) if needs[2] else None


def rms_norm_forward(x, weight, eps=1e-6, needs=(True, True)):
    r"""y = x̂ ∘ w with x̂ = x / ρ, ρ = sqrt(mean(x²) + eps) over the last axis. (Zhang and Sennrich, 2019.)

    x (..., C), weight (C,) -> y (..., C). Saved: x̂ and 1/ρ.

    With g = dy∘w, the gradient of x̂:   dx = (g - x̂ mean(g∘x̂)) / ρ,      dw = Σ_rows dy∘x̂.
    It is LayerNorm's gradient without the mean of g: a row may still be shifted, but not scaled.
    """
    xp, C = array_module(x), x.shape[-1]
    rows = x.reshape(-1, C)
    y, normed, inv_rms = xp.empty_like(rows), xp.empty_like(rows), xp.empty((len(rows), 1), x.dtype)
    for block in blocks(len(rows), rows.itemsize * C, xp):
        square = xp.einsum("nc,nc->n", rows[block], rows[block])[:, None] / C
        inv_rms[block] = 1 / xp.sqrt(square + eps)
        xp.multiply(rows[block], inv_rms[block], out=normed[block])
        xp.multiply(normed[block], weight, out=y[block])
    saved = (normed, inv_rms) if needs[0] else (normed if needs[1] else None, None)
    return y.reshape(x.shape), (saved, weight if needs[0] else None, x.shape, needs)


def rms_norm_backward(dy, cache):
    """dx, dweight of `rms_norm_forward`."""
    (normed, inv_rms), weight, shape, needs = cache
    xp, C = array_module(dy), shape[-1]
    dy = dy.reshape(-1, C)
    dx = None
    if needs[0]:
        dx = xp.empty_like(dy)
        for block in blocks(len(dy), dy.itemsize * C, xp):
            g = xp.multiply(dy[block], weight, out=dx[block])
            along = xp.einsum("nc,nc->n", g, normed[block])[:, None] / C
            g -= normed[block] * along
            g *= inv_rms[block]
        dx = dx.reshape(shape)
    return dx, xp.einsum("nc,nc->c", dy, normed) if needs[1] else None
