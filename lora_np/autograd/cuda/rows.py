"""Rows of a batch with an adapter each, in CUDA; the formula is in `fused/rows.py`.

One kernel for all rows, whatever ranks their adapters have: it is told where each matrix lies, and none is moved.
(Chen et al., 2023, "Punica: Multi-Tenant LoRA Serving", whose SGMV is two such kernels.)
"""

import cupy
import numpy as np

from .launch import by_tables

TOKENS = 32  # of a row, for one block; as in weights.cu


def lora_rows_into(out, y, x, updates):
    r"""out_b = y_b + s_b x_b A_bᵀ B_bᵀ; out (B, ..., out) lies in order, and may be y, which is not copied then."""
    if out.data.ptr != y.data.ptr:
        out[...] = y
    fan_in, fan_out = x.shape[-1], out.shape[-1]
    x, tokens = cupy.ascontiguousarray(x), x[0].size // fan_in
    rows = [(*update, b) for b, update in enumerate(updates) if update is not None]
    matrices = [m if m.flags.c_contiguous else cupy.ascontiguousarray(m) for A, B, *_ in rows for m in (A, B)]
    table = np.empty((len(rows), 5), np.int64)  # where A and B lie, r, b and s, a float64's bits
    table[:, :2] = np.array([m.data.ptr for m in matrices], np.int64).reshape(-1, 2)
    table[:, 2], table[:, 3] = [len(A) for A in matrices[::2]], [b for *_, b in rows]
    table[:, 4] = np.array([scaling for _, _, scaling, _ in rows], np.float64).view(np.int64)
    by_tables("lora_rows", len(rows), -(-tokens // TOKENS), x, out, cupy.asarray(table), tokens, fan_in, fan_out)
