"""Rows of a batch with an adapter each, in CUDA; the formula is in `fused/rows.py`.

Two kernels for all rows, whatever ranks their adapters have: h = s x Aᵀ, then y += h Bᵀ. They are told where each
matrix lies, and none is moved. (Chen et al., 2023, "Punica: Multi-Tenant LoRA Serving", whose SGMV is such a pair.)
Both wait for memory only. So layers that read one x, as those of queries, keys and values, have the first in common:
what one entry reads of x is in the cache for the next. And where SwiGLU follows, it is a part of the second, which
then writes one array in place of two, and nobody reads them again.
"""

import itertools
from typing import NamedTuple

import cupy
import numpy as np

from .launch import BLOCK, by_grid
from .record import upload

RANKS, EACH, COLUMNS = 8, 4, 4  # as in weights.cu
ROUNDS, TOKENS = 4, 32  # how often a warp takes EACH tokens, and how many tokens a thread: found by trying on an H200
WARPS = BLOCK // 32


class Updates(NamedTuple):
    """Where the matrices lie of the adapters that the rows have in some layers, which read the same x.

    matrices   these arrays, in float32: as long as they are held, their memory is nobody else's
    table      on the GPU, an entry for each row and, within it, each layer: what weights.cu says
    own        [the entries of one layer that have an adapter, for each layer]
    width      the largest rank, rounded up to a multiple of RANKS
    aligned    do all matrices begin at multiples of 16 bytes?
    """

    matrices: list
    table: cupy.ndarray
    own: list
    width: int
    aligned: bool


def lora_rows_ready(layers):
    """The `Updates` of these layers: for each of them a list, for each row (A, B, s) or None."""
    found = [layer[b] for b in range(len(layers[0])) for layer in layers]
    there, updates = [i for i, update in enumerate(found) if update], list(filter(None, found))
    matrices = [cupy.ascontiguousarray(m, np.float32) for A, B, _ in updates for m in (A, B)]
    table = np.zeros((len(found), 6), np.int64)
    table[there, :2] = np.array([m.data.ptr for m in matrices], np.int64).reshape(-1, 2)
    table[there, 2] = [len(A) for A in matrices[::2]]
    table[there, 4] = np.array([scaling for *_, scaling in updates], np.float64).view(np.int64)
    table[:, 5] = np.arange(len(found))
    table[:, 3] = table[:, 5] // len(layers)
    own = [table[i :: len(layers)] for i in range(len(layers))]
    own = [entries[entries[:, 2] > 0] for entries in own]
    ends = np.cumsum([len(table), *map(len, own)]).tolist()
    everything = upload(np.concatenate([table, *own]))
    own = [everything[start:end] for start, end in itertools.pairwise(ends)]
    width = -(-int(table[:, 2].max(initial=0)) // RANKS) * RANKS
    return Updates(matrices, everything[: len(table)], own, width, bool((table[:, :2] % 16 == 0).all()))


def lora_rows_in(x, updates):
    """h = s x Aᵀ of all entries (entries, tokens of a row, width) in float32, for x (B, ..., in) in any dtype.

    What belongs to no adapter, or is beyond an adapter's rank, is left as it was, and never read.
    """
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
    _add("lora_rows_out", len(updates.own[layer]), (y,), h, updates.own[layer], updates.aligned)


def lora_rows_swiglu(gate, up, h, updates):
    """silu(gate + h Bᵀ) ∘ (up + h Bᵀ) in the place of gate, for two layers' results (B, ..., out); rounded once."""
    _add("lora_rows_swiglu", len(gate), (gate, up), h, updates.table, updates.aligned)


def _add(name, entries, arrays, h, table, aligned):
    """Start a kernel that adds h Bᵀ to these arrays, with a row of blocks for each entry, or pair of entries."""
    fan_out, (_, tokens, width) = arrays[0].shape[-1], h.shape
    packed = aligned and fan_out % COLUMNS == 0 and all(array.data.ptr % 16 == 0 for array in arrays)
    threads = -(-tokens // TOKENS) * (fan_out // COLUMNS if packed else fan_out)
    by_grid(name, (-(-threads // BLOCK), entries), *arrays, h, table, tokens, fan_out, width, TOKENS, packed)
