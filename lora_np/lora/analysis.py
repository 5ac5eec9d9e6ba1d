r"""What an adapter costs, counted; and what it has learned, read off the singular values and directions of ΔW.

The measures are those of section 7 of the LoRA paper (Hu et al., 2021). Each takes plain arrays, also CuPy's, or
Parameters, and computes in float64 with NumPy. `layer.delta_weight(name)` gives an adapted layer's ΔW = s·B A.
"""

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ..autograd import backend
from ..autograd.tensor import data


def parameter_table(peft_model):
    """[(part, layers, frozen, trained)]: parameter counts by part of the model, equal layers of all blocks together.

    A part is a dotted name with block numbers replaced by "*"; an adapter counts where its layer stands. Shared
    parameters count once.
    """
    frozen, trained, layers = defaultdict(int), defaultdict(int), defaultdict(set)
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


def format_parameter_table(peft_model):
    """`parameter_table` as text to print, with a line of totals."""
    rows = parameter_table(peft_model)
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'part':<{width}}  layers {'frozen':>12} {'trained':>12}"]
    for part, count, frozen, trained in rows:
        numbers = (f"{n:,}" if n else "-" for n in (frozen, trained))
        lines.append(f"{part:<{width}}  {count:>6} " + " ".join(f"{text:>12}" for text in numbers))
    return "\n".join(lines)


def singular_spectrum(delta):
    """The singular values of a matrix (out, in), largest first: min(out, in) float64 numbers.

    Their squares add up to ‖ΔW‖²_F; those of s·B A are zero after the first r. How fast they fall says how low the rank
    of an update really is.
    """
    return np.linalg.svd(_matrix(delta), compute_uv=False)


def subspace_similarity(A1, A2, i, j):
    r"""φ = ‖U_iᵀ U_j‖²_F / min(i, j): how much of one subspace lies in another. (Hu et al., 2021, section 7.2, eq. 4.)

    U_i (in, i) are the first i right-singular vectors of A1 (r1, in), U_j the first j of A2 (r2, in). From 0, at right
    angles, to 1, where the smaller subspace lies within the larger one. Two random subspaces of n dimensions have
    max(i, j) / n on average: compare with that. ValueError unless 1 ≤ i ≤ r1 and 1 ≤ j ≤ r2.
    """
    similarities = similarity_map(A1, A2)
    for name, value, most in (("i", i, len(similarities)), ("j", j, similarities.shape[1])):
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be from 1 to {most}, the directions there are, got {value}")
    return float(similarities[i - 1, j - 1])


def similarity_map(A1, A2):
    """`subspace_similarity` for every i and j, as in the paper's figure 3: an array with φ(i, j) at [i - 1, j - 1].

    ‖U_iᵀ U_j‖²_F is the sum of the first i rows and j columns of the squared cosines, so that one product gives all.
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


def amplification(W, delta, r, seed=0):
    """By how much ΔW amplifies directions that W has but does not emphasise. (Hu et al., 2021, section 7.3, table 7.)

    W and ΔW (out, in). U (out, r) and V (in, r) are the first r left- and right-singular vectors of ΔW, of W, or of a
    normal random matrix drawn with `seed`. Returns an `Amplification`; its factor is infinite where W is zero in
    ΔW's directions. ValueError if the shapes differ, or unless 1 ≤ r ≤ min(out, in).
    """
    W, delta = _matrix(W), _matrix(delta)
    if W.shape != delta.shape:
        raise ValueError(f"W and delta must have one shape, got {W.shape} and {delta.shape}")
    if not 1 <= r <= min(W.shape):
        raise ValueError(f"r must be from 1 to {min(W.shape)}, got {r}")
    random = np.random.default_rng(seed).standard_normal(W.shape)
    by_delta, by_weight, by_random = (_norm_within(W, source, r) for source in (delta, W, random))
    size = float(np.linalg.norm(delta))
    factor = size / by_delta if by_delta else float("inf")
    return Amplification(size, float(np.linalg.norm(W)), by_delta, by_weight, by_random, factor)


def _norm_within(W, source, r):
    """‖Uᵀ W V‖_F with the first r singular directions of `source`."""
    U, _, Vt = np.linalg.svd(source, full_matrices=False)
    return float(np.linalg.norm(U[:, :r].T @ W @ Vt[:r].T))


def merge_error(weight, lora_A, lora_B, scaling, dtype=np.float32, rows=64, seed=0):
    """(largest, relative): what rounding the merged weight to `dtype` changes in the layer's result.

    Compares x W'ᵀ, with W' = W + s·B A rounded once to `dtype`, with x Wᵀ + s (x Aᵀ) Bᵀ on `rows` normal inputs, both
    products in float64. weight (out, in), lora_A (r, in), lora_B (out, r). `dtype` is a NumPy dtype or "bfloat16". The
    first number is the largest difference, the second the norm of the difference over that of the result.
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
    """A Tensor's or an array's values as a float64 NumPy matrix; ValueError if it is not one."""
    x = backend.to_numpy(data(x)).astype(np.float64)
    if x.ndim != 2:
        raise ValueError(f"expected a matrix, got shape {x.shape}")
    return x
