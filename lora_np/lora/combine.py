r"""Several adapters of one layer made into one: plain functions on arrays, NumPy's or CuPy's.

Adapter i adds s_i·B_i A_i to its layer, with A_i (r_i, in), B_i (out, r_i) and scaling s_i. The wanted sum is
ΔW = Σ w_i s_i B_i A_i, with weights w_i of either sign. "cat" is that sum, "svd" the best adapter of smaller rank.
The other kinds prune each adapter, or do not, and add up what is left, entry by entry (`MERGES`). They merge the A_i
and the B_i apart, as PEFT does: cheap, but the sum of the B_i times the sum of the A_i holds cross terms B_i A_j that
nobody trained. The kinds that end in "_svd" merge the products B_i A_i instead and take an SVD at the end; those that
begin with "knots_" merge them in a basis that they share (`knots.py`).

Task arithmetic: Ilharco et al., 2022. TIES: Yadav et al., 2023. DARE: Yu et al., 2024.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd.devices import array_module
from ..autograd.random import generator
from .knots import common_basis
from .types import Array

Numbers = Sequence[float]
Arrays = Sequence[Array]


def task_arithmetic(tensors: Arrays, weights: Numbers) -> Array:
    """Σ w_i t_i, for arrays t_i of equal shape."""
    first, *others = (w * t for w, t in zip(weights, tensors, strict=True))
    return sum(others, first)


def prune_by_magnitude(tensor: Array, density: float) -> Array:
    """TIES' first step, "trim": the ⌊density·size⌋ entries largest in magnitude stay, the others become 0.

    Of entries of equal magnitude the first ones stay.
    """
    xp = array_module(tensor)
    order = xp.argsort(-abs(tensor).reshape(-1), kind="stable")
    mask = xp.zeros(tensor.size, bool)
    mask[order[: int(density * tensor.size)]] = True
    return tensor * mask.reshape(tensor.shape)


def dare(tensor: Array, density: float) -> Array:
    """Drop and rescale: each entry stays with probability `density`, divided by it; its expected value is unchanged.

    Yu et al. (2024), with density = 1 - p for their drop rate p.
    """
    xp = array_module(tensor)
    mask = generator(xp).random(tensor.shape, dtype=xp.float32) < density
    return tensor * mask / float(density)


def elect_sign(tensors: Arrays, method: str = "total") -> Array:
    """TIES' second step: for each entry the sign, 1 or -1, that gets more votes from the t_i; 1 if both get as many.

    method: with "total" the magnitudes vote, sgn(Σ t_i) as in the paper; with "frequency" each t_i has one vote.
    """
    xp = array_module(tensors[0])
    votes = tensors if method == "total" else [xp.sign(t) for t in tensors]
    return xp.where(sum(votes) >= 0, 1, -1)


def disjoint_mean(tensors: Arrays, weights: Numbers, sign: Array) -> Array:
    """TIES' third step: for each entry, the mean of w_i t_i over those i whose t_i has the elected sign; 0 if none has.

    A t_i of 0 has no sign and does not count. The weights take no part in the election, so they may be negative.
    """
    xp = array_module(sign)
    agree = [xp.sign(t) == sign for t in tensors]
    total = sum(w * t * m for w, t, m in zip(weights, tensors, agree, strict=True))
    return total / xp.maximum(sum(m.astype(total.dtype) for m in agree), 1)


# kind: (how each adapter is pruned, whether signs are elected). DARE takes the place of the trim in "dare_ties".
MERGES: dict[str, tuple[Callable[[Array, Any], Array] | None, bool]] = {
    "linear": (None, False),
    "magnitude_prune": (prune_by_magnitude, False),
    "ties": (prune_by_magnitude, True),
    "dare_linear": (dare, False),
    "dare_ties": (dare, True),
}
SVD_KINDS = ("svd", *(f"{kind}_svd" for kind in MERGES if kind != "linear"))  # "svd" is that of "linear"
KNOTS_KINDS = tuple(f"knots_{kind}" for kind in MERGES if kind != "linear")
KINDS = ("cat", *MERGES, *SVD_KINDS, *KNOTS_KINDS)
SIGN_METHODS = ("total", "frequency")


def merge(
    kind: str, tensors: Arrays, weights: Numbers, density: float | None = None, majority_sign_method: str = "total"
) -> Array:
    """Arrays of equal shape into one, entry by entry, by one of the kinds in `MERGES`."""
    prune, elects = MERGES[kind]
    if prune:
        tensors = [prune(t, density) for t in tensors]
    if elects:
        return disjoint_mean(tensors, weights, elect_sign(tensors, majority_sign_method))
    return task_arithmetic(tensors, weights)


def cat(factors: Numbers, As: Arrays, Bs: Arrays) -> tuple[Array, Array]:
    """Σ c_i B_i A_i exactly: A = [c_i A_i] stacked (Σ r_i, in), B = [B_i] side by side (out, Σ r_i)."""
    xp = array_module(As[0])
    return xp.concatenate([c * A for c, A in zip(factors, As, strict=True)]), xp.concatenate(Bs, axis=1)


def merge_factors(
    kind: str,
    factors: Numbers,
    As: Arrays,
    Bs: Arrays,
    density: float | None = None,
    majority_sign_method: str = "total",
) -> tuple[Array, Array]:
    """PEFT's formula: A merged with the weights sgn(c_i) √|c_i| and B with √|c_i|, where c_i = w_i s_i.

    For "linear": A = Σ sgn(c_i) √|c_i| A_i and B = Σ √|c_i| B_i. B A then holds each c_i B_i A_i, but also the cross
    terms sgn(c_j) √|c_i c_j| B_i A_j with i ≠ j: it is the wanted sum for a single adapter only.
    """
    roots = [math.sqrt(abs(c)) for c in factors]
    signed = [math.copysign(root, c) for root, c in zip(roots, factors, strict=True)]
    settings = density, majority_sign_method
    return merge(kind, As, signed, *settings), merge(kind, Bs, roots, *settings)


def truncated_svd(delta: Array, rank: int) -> tuple[Array, Array]:
    """The (A, B) whose B A is the nearest of that rank to `delta` = U S Vᵀ (out, in). (Eckart and Young, 1936.)

    A = Vᵀ (rank, in) and B = U S (out, rank), of the `rank` largest singular values.
    """
    U, S, Vt = array_module(delta).linalg.svd(delta, full_matrices=False)
    return _expand(Vt[:rank], U[:, :rank] * S[:rank], rank)


def truncated_svd_of_product(A: Array, B: Array, rank: int) -> tuple[Array, Array]:
    """`truncated_svd` of B A, with A (k, in) and B (out, k), without forming that (out, in) matrix.

    With B = Q R and Aᵀ = Q' R', the core R R'ᵀ (k, k) has the singular values of B A = Q (R R'ᵀ) Q'ᵀ, and its singular
    vectors times Q and Q' are those of B A: the same result for O((out + in) k²) instead of O(out in min(out, in)).
    """
    xp = array_module(A)
    A, B = _expand(A, B, rank)  # QR turns the added rows of zeros into directions, so that all of A can be trained
    Q_out, R_out = xp.linalg.qr(B)
    Q_in, R_in = xp.linalg.qr(A.T)
    core_A, core_B = truncated_svd(R_out @ R_in.T, rank)
    return core_A @ Q_in.T, Q_out @ core_B


def clamp(A: Array, B: Array, quantile: float) -> tuple[Array, Array]:
    """A and B with every entry cut off at ±limit, where the limit is that quantile of the entries of both.

    It is PEFT's svd_clamp, from kohya's scripts: B A is no longer the nearest, and has no outliers. Singular vectors
    have two possible signs, and the limit depends a little on which the library chose.
    """
    xp = array_module(A)
    limit = xp.quantile(xp.concatenate([B.reshape(-1), A.reshape(-1)]), quantile).astype(A.dtype)
    return A.clip(-limit, limit), B.clip(-limit, limit)


def _expand(A, B, rank):
    """The same B A with rows of zeros under A and columns of zeros beside B, up to `rank`."""
    xp, more = array_module(A), max(0, rank - len(A))
    return xp.pad(A, ((0, more), (0, 0))), xp.pad(B, ((0, 0), (0, more)))


def combined_rank(kind: str, ranks: Sequence[int], svd_rank: int | None = None) -> int:
    """The rank of the result: their sum for "cat" and, without an `svd_rank`, the KnOTS kinds; `svd_rank` or the
    largest for the SVD kinds; else the one of all.

    ValueError for an unknown kind, no adapters, svd_rank < 1, and unequal ranks where A and B are added up.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of combination {kind!r}: expected one of {', '.join(KINDS)}")
    if not ranks:
        raise ValueError("no adapters to combine: expected at least one")
    if kind == "cat":
        return sum(ranks)
    if kind in SVD_KINDS + KNOTS_KINDS:
        largest = max(ranks) if kind in SVD_KINDS else sum(ranks)
        whole = isinstance(svd_rank, numbers.Integral) and not isinstance(svd_rank, bool)
        if svd_rank is not None and not (whole and svd_rank >= 1):
            raise ValueError(f"svd_rank = {svd_rank!r}: expected an integer, at least 1, or None: {largest}")
        return largest if svd_rank is None else int(svd_rank)
    if len(set(ranks)) > 1:
        raise ValueError(f"{kind!r} needs adapters of equal rank, not {', '.join(map(str, ranks))}: use 'cat' or 'svd'")
    return ranks[0]


def _check_settings(kind, density, majority_sign_method, svd_clamp):
    """ValueError for settings that `combined_rank` does not check."""
    quantile = isinstance(svd_clamp, numbers.Real) and 0 < svd_clamp <= 1
    if kind in SVD_KINDS + KNOTS_KINDS and svd_clamp is not None and not quantile:
        raise ValueError(f"svd_clamp = {svd_clamp!r}: expected a quantile in (0, 1], such as 0.99, or None")
    prune, elects = MERGES.get(kind.removesuffix("_svd").removeprefix("knots_"), (None, False))
    if prune and not (isinstance(density, numbers.Real) and 0 < density <= 1):
        raise ValueError(f"{kind!r} needs density, the fraction of entries that stay, in (0, 1], not {density!r}")
    if elects and majority_sign_method not in SIGN_METHODS:
        raise ValueError(f"majority_sign_method = {majority_sign_method!r}: expected 'total' or 'frequency'")


def combine(
    kind: str,
    weights: Numbers,
    scalings: Numbers,
    As: Arrays,
    Bs: Arrays,
    svd_rank: int | None = None,
    density: float | None = None,
    majority_sign_method: str = "total",
    svd_clamp: float | None = None,
    svd_full_matrices: bool = True,
    svd_driver: str | None = None,
) -> tuple[Array, Array]:
    """One adapter for several of one layer: (A (r, in), B (out, r)), in float32 or better, r as `combined_rank` says.

    kind      one of `KINDS`
    weights   w_i, of either sign; scalings: s_i; As: A_i (r_i, in); Bs: B_i (out, r_i)
    svd_rank  r, for the SVD and KnOTS kinds; None for the largest r_i, or for Σ r_i with KnOTS, which loses nothing.
              Where the weight has a smaller rank, zeros are added
    density   fraction of the entries that stay, in (0, 1], for the kinds that prune
    majority_sign_method   "total" or "frequency", for the kinds that elect signs
    svd_clamp   for the SVD and KnOTS kinds: cut entries of A and B off at this quantile of them; see `clamp`
    svd_full_matrices, svd_driver   PEFT's, which change nothing here: how torch computes the SVD

    The scalings are inside the result: its own is 1, so its alpha is r. Settings that a kind does not use are ignored.
    ValueError for an unknown kind, no adapters or not one weight each, unequal ranks where they are added up, and a
    density, svd_rank or majority_sign_method that is missing or out of range.
    """
    counts = [len(part) for part in (weights, scalings, As, Bs)]
    if len(set(counts)) > 1:
        raise ValueError("{} weights and {} scalings for {} matrices A and {} B: expected one each".format(*counts))
    rank = combined_rank(kind, [len(A) for A in As], svd_rank)
    _check_settings(kind, density, majority_sign_method, svd_clamp)
    settings = density, majority_sign_method
    dtype = np.result_type(np.float32, *(X.dtype for X in (*As, *Bs)))  # LAPACK has no float16
    As, Bs = ([X.astype(dtype, copy=False) for X in part] for part in (As, Bs))
    weights = [float(w) for w in weights]  # a NumPy scalar in float64 would make float64 of everything
    factors = [w * float(s) for w, s in zip(weights, scalings, strict=True)]
    if kind in MERGES:
        return merge_factors(kind, factors, As, Bs, *settings)
    if kind == "cat" or (kind == "svd" and svd_clamp is None):
        A, B = cat(factors, As, Bs)
        return (A, B) if kind == "cat" else truncated_svd_of_product(A, B, rank)
    if kind in KNOTS_KINDS:
        basis, coordinates = common_basis(scalings, As, Bs)
        A = merge(kind.removeprefix("knots_"), coordinates, weights, *settings)
        A, B = truncated_svd_of_product(A, basis, rank) if svd_rank else _expand(A, basis, rank)
    else:
        merged = "linear" if kind == "svd" else kind.removesuffix("_svd")
        deltas = [float(s) * (B @ A) for s, A, B in zip(scalings, As, Bs, strict=True)]
        A, B = truncated_svd(merge(merged, deltas, weights, *settings), rank)
    return (A, B) if svd_clamp is None else clamp(A, B, float(svd_clamp))
