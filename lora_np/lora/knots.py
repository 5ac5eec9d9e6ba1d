r"""KnOTS: adapters are brought into one basis before they are merged. Plain functions on arrays, NumPy's or CuPy's.

Stoica et al., 2024, "Model merging with SVD to tie the Knots" (arXiv 2410.19735). With ΔW_i = s_i B_i A_i (out, in):

    [ΔW_1, ..., ΔW_n] = U S [V_1ᵀ, ..., V_nᵀ]         one SVD of all side by side, (out, n·in)
    ΔW = U S merge(V_1ᵀ, ..., V_nᵀ)                    TIES, DARE and the like on the V_iᵀ (k, in)

U S is the same for all: an entry of V_iᵀ says how much of one common direction of the output adapter i uses, so that
TIES compares like with like, where entries of B_i and A_i, or of ΔW_i, have no such meaning. Plain sums are the same
in every basis, so that there is no "knots_linear": it would be "cat". Published claim: up to 4.3% better than the same
merge of the ΔW_i. U's signs are free; they change nothing, for a flipped row of every V_iᵀ gives a flipped merge.
"""

from collections.abc import Sequence

import numpy as np

from ..autograd.devices import array_module
from .types import Array


def common_basis(scalings: Sequence[float], As: Sequence[Array], Bs: Sequence[Array]) -> tuple[Array, list[Array]]:
    """(U S (out, k), [V_iᵀ (k, in)]) with ΔW_i = U S V_iᵀ; k is the rank of all together, at most Σ r_i.

    Directions with a singular value of 0, up to rounding, are left out: their V_iᵀ mean nothing, and would be pruned
    and voted on as if they did.
    The (out, n·in) matrix is never formed: with [B_1, ...] = Q R, Q R [blocks s_i A_i on a diagonal] has the singular
    values of R [blocks], which has only Σ r_i rows.
    """
    xp = array_module(As[0])
    Q, R = xp.linalg.qr(xp.concatenate(Bs, axis=1))  # (out, k), (k, Σ r_i)
    blocks, start = [], 0
    for s, A in zip(scalings, As, strict=True):
        blocks.append(R[:, start : start + len(A)] @ (float(s) * A))  # (k, in)
        start += len(A)
    U, S, Vt = xp.linalg.svd(xp.concatenate(blocks, axis=1), full_matrices=False)
    width = As[0].shape[1]
    k = int((S[0] * max(len(Q), width) * np.finfo(S.dtype).eps < S).sum())
    U, S, Vt = U[:, :k], S[:k], Vt[:k]
    return Q @ (U * S), [Vt[:, i * width : (i + 1) * width] for i in range(len(As))]
