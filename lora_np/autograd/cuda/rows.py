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
from .linear import base_onto, in_out
from .record import upload

RANKS, EACH, TILE, COLUMNS = 8, 4, 8, 2  # as in weights.cu
CACHED = 24 << 20  # bytes of x and of one y that may be in work at a time: a large GPU's cache holds twice as much
WARPS = BLOCK // 32


class Updates(NamedTuple):
    """Where the matrices lie of the adapters that the rows have in some layers, which read the same x.

    matrices   these arrays: as long as they are held, their memory is nobody else's
    table      on the GPU, for each row and each layer that has an adapter for it, what weights.cu says, row by row
    own        [the entries of one layer, for each]
    ends       [how many entries rows 0 to b have in all, for each b], and such a list for each layer
    width      the largest rank, rounded up to a multiple of RANKS
    aligned    do all matrices begin at multiples of 16 bytes?
    """

    matrices: list
    table: cupy.ndarray
    own: list
    ends: tuple
    width: int
    aligned: bool


def lora_rows_ready(layers):
    """The `Updates` of these layers: for each of them a list, for each row (A, B, s), A and B in float32, or None."""
    rows = len(layers[0])
    entries = [(i, b, update[b]) for b in range(rows) for i, update in enumerate(layers) if update[b]]
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
    there = np.array([[bool(update[b]) for b in range(rows)] for update in layers]).cumsum(axis=1)
    counts = there.sum(axis=0).tolist(), there.tolist()
    return Updates(matrices, by_layer if len(layers) == 1 else upload(table), own, counts, width, aligned)


def lora_rows_in(x, updates):
    """h = s x Aᵀ of all entries (entries, tokens of a row, width) in float32, for x (B, ..., in) in any dtype."""
    x = cupy.ascontiguousarray(x)
    h = _room(x, updates)
    _into_ranks(x, h, updates.table, updates)
    return h


def lora_rows_out(y, h, updates, layer=0):
    """y += h Bᵀ in place, for the y (B, ..., out) of one of the layers, without gaps; rounded once."""
    _out_of_ranks(y, h, updates.own[layer], updates, adds=True)


def lora_rows_and_bases(x, bases, updates):
    """[x Wᵀ + b + h Bᵀ for each of the layers], for x (B, ..., in) and (W, b, is W stored as (in, out)?) of each.

    The updates come first, and the large product adds itself to them: see `linear.branch_and_base`. (In 16 bits they
    are rounded by themselves once more.) A few rows of the batch at a time: so what is read of x, and written of an
    update, is still in the cache when the product asks for it.
    """
    x = cupy.ascontiguousarray(x)
    h, weights = _room(x, updates), [in_out(weight, turned, x) for weight, _, turned in bases]
    counts, of_layers = updates.ends
    ys = [
        (cupy.empty if ends[-1] == len(x) else cupy.zeros)((*x.shape[:-1], w.shape[1]), x.dtype)
        for w, ends in zip(weights, of_layers, strict=True)
    ]
    step = max(1, CACHED * len(x) // max(1, x.nbytes + max(y.nbytes for y in ys)))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        _into_ranks(x, h, _entries(updates.table, counts, rows), updates)
        for y, w, (_, bias, _), own, ends in zip(ys, weights, bases, updates.own, of_layers, strict=True):
            _out_of_ranks(y, h, _entries(own, ends, rows), updates, adds=False)
            base_onto(y[rows].reshape(-1, w.shape[1]), x[rows].reshape(-1, w.shape[0]), w, bias)
    return ys


def _entries(table, ends, rows):
    """The part of a table whose entries these rows of the batch have."""
    return table[ends[rows.start - 1] if rows.start else 0 : ends[min(rows.stop, len(ends)) - 1]]


def _room(x, updates):
    return cupy.empty((len(updates.table), x[0].size // x.shape[-1], updates.width), np.float32)


def _into_ranks(x, h, table, updates):
    """Write h of these entries, for x without gaps."""
    fan_in, (_, tokens, width) = x.shape[-1], h.shape
    packed, groups = updates.aligned and fan_in % 4 == 0 and x.data.ptr % 16 == 0, max(1, -(-tokens // EACH))
    slices = max(1, WARPS >> (groups - 1).bit_length())  # of few tokens, the warps of a block share each sum
    grid = -(-groups * slices // WARPS), len(table), width // RANKS
    by_grid("lora_rows_in", grid, x, h, table, tokens, fan_in, width, slices, packed)


def _out_of_ranks(y, h, table, updates, adds):
    """y += h Bᵀ for these entries; without `adds` what y held does not count."""
    fan_out, (_, tokens, width) = y.shape[-1], h.shape
    packed = updates.aligned and fan_out % COLUMNS == 0 and y.data.ptr % 16 == 0
    threads = -(-tokens // TILE) * (fan_out // COLUMNS if packed else fan_out)
    by_grid("lora_rows_out", (-(-threads // BLOCK), len(table)), y, h, table, tokens, fan_out, width, packed, adds)
