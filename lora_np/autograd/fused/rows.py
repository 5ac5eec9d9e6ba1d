r"""Rows of one batch that each have a low-rank update of their own: many small products, done as a few large ones.

A batch for many users has a row for each, and each user an adapter. Adapter by adapter that would be thousands of
products too small to be worth their start. Here the matrices of n adapters lie one behind the other, and NumPy and CuPy
multiply a stack of matrices by another in one call. (Chen et al., 2023, "Punica: Multi-Tenant LoRA Serving", whose
kernel SGMV does the same in one go on a GPU.)
"""

import numpy as np


def lora_rows_forward(y, x, lora_A, lora_B, scalings, rows=None, needs=(True, True, True, True)):
    r"""y_b + s_g x_b A_gᵀ B_gᵀ for each row b of adapter g; y_b where b is no adapter's.

    y (B, ..., out), x (B, ..., in); lora_A (n, r, in) holds the A_g, lora_B (n, r, out) the B_gᵀ, as the second product
    reads them; scalings: n numbers s_g. An adapter of a smaller rank than r has zeros below it, which add nothing.
    rows: integers (n, c), the c rows of each adapter, none of them twice; None: they lie in order, adapter by adapter,
    and nothing has to be gathered. y is only read.

    Write X_g (N, in) for the inputs of adapter g's rows, N tokens in all, and H_g = s_g X_g A_gᵀ: the update is
    H_g B_gᵀ. With G_g = s_g dY_g B_g, the gradient of X_g A_gᵀ:
        dy = dy      dX_g = G_g A_g      dA_g = G_gᵀ X_g (r, in)      dB_gᵀ = H_gᵀ dY_g (r, out)
    Saved: the X_g for dA, the H_g for dB, and the matrices.
    """
    rows = None if rows is None else np.asarray(rows, like=x)
    scales = np.asarray(scalings, dtype=x.dtype, like=x)[:, None, None]
    inputs = _gathered(x, rows, len(lora_A))  # (n, N, in)
    h = inputs @ lora_A.swapaxes(1, 2)  # (n, N, r)
    h *= scales
    update = h @ lora_B  # (n, N, out)
    if rows is None:
        out = update.reshape(y.shape)
        out += y
    else:
        out = y.copy()
        out[rows] += update.reshape(*rows.shape, *y.shape[1:])
    saved = (inputs if needs[2] else None, h if needs[3] else None)
    return out, (saved, (lora_A if needs[1] else None, lora_B), scales, rows, x.shape, needs)


def lora_rows_backward(dy, cache):
    """dy, dx, dlora_A, dlora_B of `lora_rows_forward`."""
    (inputs, h), (lora_A, lora_B), scales, rows, shape, needs = cache
    dx = dA = dB = None
    mine = _gathered(dy, rows, len(lora_B))  # (n, N, out)
    if needs[1] or needs[2]:
        g = mine @ lora_B.swapaxes(1, 2)  # (n, N, r)
        g *= scales
    if needs[1]:
        dx = _put_back(g @ lora_A, rows, shape)
    if needs[2]:
        dA = g.swapaxes(1, 2) @ inputs
    if needs[3]:
        dB = h.swapaxes(1, 2) @ mine
    return dy if needs[0] else None, dx, dA, dB


def lora_rows_into(out, y, x, updates):
    r"""out_b = y_b + s_b x_b A_bᵀ B_bᵀ for each row b: the same without stacks, for where no gradient is asked for.

    y and out (B, ..., out), x (B, ..., in), NumPy's; updates: for each row A_b (r_b, in), B_b (out, r_b) and s_b, or
    None, and then out_b = y_b. Reads every matrix where it lies, and ends with a row while that is in the cache.
    """
    for out_b, y_b, x_b, update in zip(out, y, x, updates, strict=True):
        if update is None:
            out_b[...] = y_b
            continue
        lora_A, lora_B, scaling = update
        h = x_b @ lora_A.T  # (..., r)
        h *= scaling
        np.matmul(h, lora_B.T, out=out_b)
        out_b += y_b


def _gathered(x, rows, n):
    """x (B, ..., C) as (n, N, C): the tokens of each adapter's rows, one row after another."""
    return (x if rows is None else x[rows]).reshape(n, -1, x.shape[-1])


def _put_back(parts, rows, shape):
    """(n, N, C) as an array of this shape (B, ..., C), zero in the rows that are no adapter's."""
    if rows is None:
        return parts.reshape(shape)
    whole = np.zeros_like(parts, shape=shape)
    whole[rows] = parts.reshape(*rows.shape, *shape[1:])
    return whole
