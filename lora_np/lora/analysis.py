r"""What an adapter costs, counted; and what it has learned, read off the singular values and directions of ΔW.

The measures are those of section 7 of the LoRA paper (Hu et al., 2021), and intruder dimensions. Each takes plain
arrays, also CuPy's, or Parameters, and computes in float64 with NumPy. `layer.delta_weight(name)` gives an adapted
layer's ΔW = s·B A.
"""

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..autograd import Tensor
from ..autograd.devices import to_numpy
from ..autograd.tensor import data
from ..expect import expect_number, expect_whole
from .types import Array

if TYPE_CHECKING:
    from .peft_model import PeftModel


def parameter_table(peft_model: "PeftModel") -> list[tuple[str, int, int, int]]:
    """[(part, layers, frozen, trained)]: parameter counts by part of the model, equal layers of all blocks together.

    A part is a dotted name with block numbers replaced by "*"; an adapter counts where its layer stands. Shared
    parameters count once.
    """
    frozen: dict[str, int] = defaultdict(int)
    trained: dict[str, int] = defaultdict(int)
    layers: dict[str, set[str]] = defaultdict(set)
    for name, p in peft_model.named_parameters():
        module = _owner(name.removeprefix("base_model.model."), peft_model.base_model.adapted)
        part = re.sub(r"\.\d+(?=\.|$)", ".*", module)
        layers[part].add(module)
        (trained if p.requires_grad else frozen)[part] += p.size
    return [(part, len(found), frozen[part], trained[part]) for part, found in layers.items()]


def _owner(name, adapted):
    """The module that a parameter of this dotted name belongs to; an adapted layer owns what its adapters have."""
    path = name.split(".")[:-1]
    prefixes = (".".join(path[:i]) for i in range(1, len(path)))
    return next((prefix for prefix in prefixes if prefix in adapted), ".".join(path))


def format_parameter_table(peft_model: "PeftModel") -> str:
    """`parameter_table` as text to print, with a line of totals."""
    rows: list[tuple[str, Any, int, int]] = list(parameter_table(peft_model))
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'part':<{width}}  layers {'frozen':>12} {'trained':>12}"]
    for part, count, frozen, trained in rows:
        numbers = (f"{n:,}" if n else "-" for n in (frozen, trained))
        lines.append(f"{part:<{width}}  {count:>6} " + " ".join(f"{text:>12}" for text in numbers))
    return "\n".join(lines)


def singular_spectrum(delta: Tensor | Array) -> Array:
    """The singular values of a matrix (out, in), largest first: min(out, in) float64 numbers.

    Their squares add up to ‖ΔW‖²_F, and of s·B A all after the first r are zero. The faster they fall, the fewer
    directions an update really uses.
    """
    return np.linalg.svd(_matrix(delta), compute_uv=False)


def subspace_similarity(A1: Tensor | Array, A2: Tensor | Array, i: int, j: int) -> float:
    r"""φ = ‖U_iᵀ U_j‖²_F / min(i, j): how much of one subspace lies in another. (Hu et al., 2021, section 7.2, eq. 4.)

    U_i (in, i) are the first i right-singular vectors of A1 (r1, in), U_j the first j of A2 (r2, in). φ is 0 where the
    subspaces are at right angles, and 1 where the smaller lies within the larger one. Random subspaces of a space of n
    dimensions have max(i, j) / n on average: compare with that. ValueError unless 1 ≤ i ≤ r1 and 1 ≤ j ≤ r2.
    """
    similarities = similarity_map(A1, A2)
    for name, value, most in (("i", i, len(similarities)), ("j", j, similarities.shape[1])):
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be from 1 to {most}, the directions there are, got {value}")
    return float(similarities[i - 1, j - 1])


def similarity_map(A1: Tensor | Array, A2: Tensor | Array) -> Array:
    """`subspace_similarity` for every i and j, as in the paper's figure 3: an array with φ(i, j) at [i - 1, j - 1].

    One product of all directions gives their cosines. ‖U_iᵀ U_j‖²_F adds up the squares in its first i rows and j
    columns. ValueError if A1 and A2 differ in width.
    """
    (_, _, first), (_, _, second) = (np.linalg.svd(_matrix(A), full_matrices=False) for A in (A1, A2))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the matrices must have inputs of one width, got {first.shape[1]} and {second.shape[1]}")
    sums = np.square(first @ second.T).cumsum(axis=0).cumsum(axis=1)
    i, j = np.ogrid[1 : len(first) + 1, 1 : len(second) + 1]
    return sums / np.minimum(i, j)


class Amplification(NamedTuple):
    """What `amplification` measures: Frobenius norms, and their ratio."""

    delta: float  # ‖ΔW‖
    weight: float  # ‖W‖
    by_delta: float  # ‖Uᵀ W V‖ with the directions of ΔW: how large W is where ΔW acts
    by_weight: float  # the same with W's own first directions: the most that r directions can hold
    by_random: float  # the same with those of a random matrix: what would be there by chance
    factor: float  # ‖ΔW‖ / ‖Uᵀ W V‖ with the directions of ΔW


def amplification(W: Tensor | Array, delta: Tensor | Array, r: int, seed: int = 0) -> Amplification:
    """By how much ΔW amplifies directions that W has but does not emphasise. (Hu et al., 2021, section 7.3, table 7.)

    W and ΔW (out, in). U (out, r) and V (in, r) are the first r left- and right-singular vectors of ΔW, of W, or of a
    normal random matrix drawn with `seed`. Returns an `Amplification`; its factor is infinite where W is zero in
    ΔW's directions. ValueError if the shapes differ, or unless 1 ≤ r ≤ min(out, in).
    """
    weight, update = _matrix(W), _matrix(delta)
    if weight.shape != update.shape:
        raise ValueError(f"W and delta must have one shape, got {weight.shape} and {update.shape}")
    if not 1 <= r <= min(weight.shape):
        raise ValueError(f"r must be from 1 to {min(weight.shape)}, got {r}")
    random = np.random.default_rng(seed).standard_normal(weight.shape)
    by_delta, by_weight, by_random = (_norm_within(weight, source, r) for source in (update, weight, random))
    size = float(np.linalg.norm(update))
    factor = size / by_delta if by_delta else float("inf")
    return Amplification(size, float(np.linalg.norm(weight)), by_delta, by_weight, by_random, factor)


def _norm_within(W, source, r):
    """‖Uᵀ W V‖_F with the first r singular directions of `source`."""
    U, _, Vt = np.linalg.svd(source, full_matrices=False)
    return float(np.linalg.norm(U[:, :r].T @ W @ Vt[:r].T))


class Intruders(NamedTuple):
    """What `intruder_dimensions` finds.

    indices   the numbers of the singular vectors of W + ΔW that are intruders, that of the largest singular value 0
    cosines   (top_k,): how like the most similar singular vector of W each of the first top_k is
    singular_values   (min(out, in),) of W + ΔW
    """

    indices: list[int]
    cosines: Array
    singular_values: Array


def intruder_dimensions(
    W: Tensor | Array, delta: Tensor | Array, top_k: int = 10, threshold_epsilon: float = 0.5
) -> Intruders:
    """Which of the first `top_k` left-singular vectors y_j of W + ΔW are intruders: max_i |cos(y_j, x_i)| < threshold.

    x_i are all left-singular vectors of W. W and ΔW (out, in). (Shuttleworth et al., 2024, arXiv 2410.21228; to make
    them smaller, see `intruders.py`.) ValueError if the shapes differ, for a top_k below 1 or a negative threshold.
    """
    weight, update = _matrix(W), _matrix(delta)
    if weight.shape != update.shape:
        raise ValueError(f"W and delta must have one shape, got {weight.shape} and {update.shape}")
    check_intruder_settings(top_k, threshold_epsilon)
    merged = np.linalg.svd(weight + update, full_matrices=False)
    return among_singular_vectors(weight, merged, top_k, threshold_epsilon)


def check_intruder_settings(top_k: Any, threshold_epsilon: Any) -> None:
    """ValueError or TypeError for settings of `intruder_dimensions` that make no sense."""
    expect_whole(top_k, "top_k")
    expect_number(threshold_epsilon, "threshold_epsilon")


def among_singular_vectors(W: Array, merged: tuple[Array, Array, Array], top_k: int, threshold: float) -> Intruders:
    """`intruder_dimensions` of W, where the SVD (U, S, Vᵀ) of W + ΔW is known."""
    U, S, _ = merged
    base = np.linalg.svd(W, full_matrices=False)[0]
    cosines = np.abs(U[:, :top_k].T @ base).max(axis=1)
    return Intruders(np.flatnonzero(cosines < threshold).tolist(), cosines, S)


def merge_error(
    weight: Tensor | Array,
    lora_A: Tensor | Array,
    lora_B: Tensor | Array,
    scaling: float,
    dtype: Any = np.float32,
    rows: int = 64,
    seed: int = 0,
) -> tuple[float, float]:
    """(largest, relative): what rounding the merged weight to `dtype` changes in the layer's result.

    The merged layer gives x W'ᵀ, with W' = W + s·B A rounded once to `dtype`, a NumPy dtype or "bfloat16"; before, it
    was x Wᵀ + s (x Aᵀ) Bᵀ. Both are computed in float64 on `rows` normal inputs. weight (out, in), lora_A (r, in),
    lora_B (out, r). Returned are the largest difference, and the norm of the difference over that of the result.
    """
    W, A, B = _matrix(weight), _matrix(lora_A), _matrix(lora_B)
    x = np.random.default_rng(seed).standard_normal((rows, W.shape[1]))
    expected = x @ W.T + scaling * ((x @ A.T) @ B.T)
    difference = x @ _rounded(W + scaling * (B @ A), dtype).T - expected
    return float(np.abs(difference).max()), float(np.linalg.norm(difference) / np.linalg.norm(expected))


def _rounded(x, dtype):
    """x (float64) rounded to `dtype` and back. A bfloat16 is the upper half of a float32, rounded to even."""
    if dtype != "bfloat16":
        return x.astype(dtype).astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def _matrix(x):
    """The values of a Tensor or an array as a float64 NumPy matrix. ValueError if it has other than two axes."""
    x = to_numpy(data(x)).astype(np.float64)
    if x.ndim != 2:
        raise ValueError(f"expected a matrix, got shape {x.shape}")
    return x
