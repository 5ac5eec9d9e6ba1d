"""Rows of a batch with an adapter each, in CUDA; the formula is in `fused/rows.py`.

Two kernels for all rows, whatever ranks their adapters have: h = s x Aᵀ, then y += h Bᵀ. They are told where each
matrix lies, and none is moved. (Chen et al., 2023, "Punica: Multi-Tenant LoRA Serving", whose SGMV is such a pair.)
Both wait for memory only. So layers that read one x, as those of queries, keys and values, have the first in common:
what one entry reads of x is in the cache for the next.
"""

from typing import NamedTuple

import cupy
import numpy as np

from .launch import BLOCK, by_grid
from .record import upload

RANKS, EACH, COLUMNS = 8, 4, 4  # as in weights.cu
ROUNDS, TOKENS = 4, 16  # how often a warp takes EACH tokens, and how many tokens a thread: found by trying on an H200
WARPS = BLOCK // 32


class Updates(NamedTuple):
    """Where the matrices lie of the adapters that the rows have in some layers, which read the same x.

    matrices   these arrays: as long as they are held, their memory is nobody else's
    table      on the GPU, for each row and each layer that has an adapter for it, what weights.cu says
    own        [the entries of one layer, for each]
    width      the largest rank, rounded up to a multiple of RANKS
    aligned    do all matrices begin at multiples of 16 bytes?
    """

    matrices: list
    table: cupy.ndarray
    own: list
    width: int
    aligned: bool


def lora_rows_ready(layers):
    """The `Updates` of these layers: for each of them a list, for each row (A, B, s), A and B in float32, or None."""
    entries = [(i, b, update[b]) for b in range(len(layers[0])) for i, update in enumerate(layers) if update[b]]
    matrices = [m if m.flags.c_contiguous else cupy.ascontiguousarray(m) for *_, (A, B, _) in entries for m in (A, B)]
    table = np.empty((len(entries), 6), np.int64)
    table[:, :2] = np.array([m.data.ptr for m in matrices], np.int64).reshape(-1, 2)
    table[:, 2], table[:, 3] = [len(A) for A in matrices[::2]], [b for _, b, _ in entries]
    table[:, 4] = np.array([scaling for *_, (_, _, scaling) in entries], np.float64).view(np.int64)
    table[:, 5] = np.arange(len(entries))
    layer = np.array([i for i, *_ in entries], np.int64)
    ends = np.cumsum(np.bincount(layer, minlength=len(layers)))
    by_layer = upload(table[np.argsort(layer, kind="stable")])
    own = [by_layer[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]
    width = -(-max(map(len, matrices[::2]), default=0) // RANKS) * RANKS
    aligned = bool((table[:, :2] % 16 == 0).all())
    return Updates(matrices, by_layer if len(layers) == 1 else upload(table), own, width, aligned)


def lora_rows_in(x, updates):
    """h = s x Aᵀ of all entries (entries, tokens of a row, width) in float32, for x (B, ..., in) in any dtype."""
    fan_in, entries = x.shape[-1], len(updates.table)
    x, tokens = cupy.ascontiguousarray(x), x[0].size // fan_in
    packed, groups = updates.aligned and fan_in % 4 == 0 and x.data.ptr % 16 == 0, max(1, -(-tokens // EACH))
    slices = max(1, WARPS >> (groups - 1).bit_length())  # of few tokens, the warps of a block share each sum
    rounds = 1 if slices > 1 else min(ROUNDS, -(-groups // WARPS))
    h = cupy.empty((entries, tokens, updates.width), np.float32)
    grid = -(-groups * slices // (WARPS * rounds)), entries, updates.width // RANKS
    by_grid("lora_rows_in", grid, x, h, updates.table, tokens, fan_in, updates.width, slices, rounds, packed)
    return h


def lora_rows_out(y, h, updates, layer=0):
    """y += h Bᵀ in place, for the y (B, ..., out) of one of the layers, without gaps; rounded once."""
    fan_out, (_, tokens, width), own = y.shape[-1], h.shape, updates.own[layer]
    packed = updates.aligned and fan_out % COLUMNS == 0 and y.data.ptr % 16 == 0
    threads = -(-tokens // TOKENS) * (fan_out // COLUMNS if packed else fan_out)
    by_grid("lora_rows_out", (-(-threads // BLOCK), len(own)), y, h, own, tokens, fan_out, width, TOKENS, packed)
