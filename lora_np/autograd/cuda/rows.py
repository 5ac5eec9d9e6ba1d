"""Rows of a batch with an adapter each, in CUDA; the formula is in `fused/rows.py`.

Two kernels for all rows, whatever ranks their adapters have: h = s x Aᵀ, then y += h Bᵀ. They are told where each
matrix lies, and none is moved. (Chen et al., 2023, "Punica: Multi-Tenant LoRA Serving", whose SGMV is such a pair.)
"""

from typing import NamedTuple

import cupy
import numpy as np

from .launch import BLOCK, by_grid
from .record import upload

RANKS, EACH, TILE, COLUMNS = 8, 4, 16, 2  # as in weights.cu
WARPS = BLOCK // 32


class Updates(NamedTuple):
    """Where the matrices of the rows' adapters lie.

    matrices   these arrays: as long as they are held, their memory is nobody else's
    table      on the GPU, for each row that has an adapter what weights.cu says
    width      the largest rank, rounded up to a multiple of RANKS
    aligned    do all of them begin at multiples of 16 bytes?
    """

    matrices: list
    table: cupy.ndarray
    width: int
    aligned: bool


def lora_rows_ready(updates):
    """The `Updates` of these: for each row of the batch (A, B, s), A and B in float32, or None."""
    rows = [(*update, b) for b, update in enumerate(updates) if update is not None]
    matrices = [m if m.flags.c_contiguous else cupy.ascontiguousarray(m) for A, B, *_ in rows for m in (A, B)]
    table = np.empty((len(rows), 5), np.int64)  # where A and B lie, r, b and s, a float64's bits
    table[:, :2] = np.array([m.data.ptr for m in matrices], np.int64).reshape(-1, 2)
    table[:, 2], table[:, 3] = [len(A) for A in matrices[::2]], [b for *_, b in rows]
    table[:, 4] = np.array([scaling for _, _, scaling, _ in rows], np.float64).view(np.int64)
    width = -(-max(map(len, matrices[::2]), default=0) // RANKS) * RANKS
    return Updates(matrices, upload(table), width, bool((table[:, :2] % 16 == 0).all()))


def lora_rows_into(out, y, x, updates):
    r"""out_b = y_b + s_b x_b A_bᵀ B_bᵀ; out (B, ..., out) lies in order, and may be y, which is not copied then.

    x, y and out are of one dtype, float32 or 16 bits; sums are made in float32, and rounded once.
    """
    if out.data.ptr != y.data.ptr:
        out[...] = y
    fan_in, fan_out, entries, width = x.shape[-1], out.shape[-1], len(updates.table), updates.width
    x, tokens = cupy.ascontiguousarray(x), x[0].size // fan_in
    packed = fan_in % 4 == 0 and fan_out % COLUMNS == 0 and all(a.data.ptr % 16 == 0 for a in (x, out))
    packed, groups = packed and updates.aligned, max(1, -(-tokens // EACH))
    slices = max(1, WARPS >> (groups - 1).bit_length())  # of few tokens, the warps of a block share each sum
    h = cupy.empty((entries, tokens, width), np.float32)
    grid = -(-groups * slices // WARPS), entries, width // RANKS
    by_grid("lora_rows_in", grid, x, h, updates.table, tokens, fan_in, width, slices, packed)
    threads = -(-tokens // TILE) * (fan_out // COLUMNS if packed else fan_out)
    by_grid("lora_rows_out", (-(-threads // BLOCK), entries), out, h, updates.table, tokens, fan_out, width, packed)
