"""KnOTS: against the construction of the paper, written out plainly in float64."""

import numpy as np
import pytest
from helpers import assert_close
from lora_helpers import logits_of, peft_model, relative

from lora_np import LoraConfig, manual_seed
from lora_np.autograd.devices import to_numpy
from lora_np.lora.combine import KNOTS_KINDS, combine, combined_rank
from lora_np.lora.knots import common_basis

WEIGHTS, SCALINGS = [0.7, -1.3, 0.4], [2.0, 0.5, 1.0]


def adapters(rng, xp=np, ranks=(3, 2, 4), shape=(14, 9)):
    As = [xp.asarray(rng.standard_normal((r, shape[1]))) for r in ranks]
    return As, [xp.asarray(rng.standard_normal((shape[0], r))) for r in ranks]


def by_the_paper(kind, weights, deltas, density):
    """The SVD of the whole (out, n·in), and the merge of its right-hand parts entry by entry."""
    n, width = len(deltas), deltas[0].shape[1]
    U, S, Vt = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    keep = 1e-10 * S[0] < S
    U, S, parts = U[:, keep], S[keep], [Vt[keep, i * width : (i + 1) * width] for i in range(n)]
    if kind in ("ties", "magnitude_prune"):
        for i, part in enumerate(parts):
            size = np.sort(np.abs(part).ravel())[::-1][int(density * part.size) - 1]
            parts[i] = np.where(np.abs(part) >= size, part, 0)
    merged = np.zeros_like(parts[0])
    for place in np.ndindex(merged.shape):
        values = [part[place] for part in parts]
        if kind == "magnitude_prune":
            merged[place] = sum(w * v for w, v in zip(weights, values, strict=True))
            continue
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [w * v for w, v in zip(weights, values, strict=True) if np.sign(v) == sign]
        merged[place] = sum(agreeing) / max(1, len(agreeing))
    return (U * S) @ merged


@pytest.mark.parametrize("shape", [(14, 9), (9, 14), (5, 20)], ids=str)
@pytest.mark.parametrize("kind", ["ties", "magnitude_prune"])
def test_it_is_the_papers_construction(rng, xp, kind, shape):
    As, Bs = adapters(rng, xp, shape=shape)
    A, B = combine(f"knots_{kind}", WEIGHTS, SCALINGS, As, Bs, density=0.6)
    assert (A.shape, B.shape) == ((9, shape[1]), (shape[0], 9))
    deltas = [s * to_numpy(b @ a) for s, a, b in zip(SCALINGS, As, Bs, strict=True)]
    if shape[0] < 9:  # fewer directions than ranks, so other entries are among the largest: pruned there likewise
        assert len(common_basis(SCALINGS, As, Bs)[1][0]) == shape[0]
    assert_close(B @ A, by_the_paper(kind, WEIGHTS, deltas, 0.6))


def test_the_basis_gives_every_update_back(rng, xp):
    As, Bs = adapters(rng, xp)
    basis, coordinates = common_basis(SCALINGS, As, Bs)
    for s, a, b, V in zip(SCALINGS, As, Bs, coordinates, strict=True):
        assert_close(basis @ V, s * (b @ a))
    rows = np.concatenate([to_numpy(V) for V in coordinates], axis=1)
    assert_close(rows @ rows.T, np.eye(9))
    columns = to_numpy(basis).T @ to_numpy(basis)
    assert_close(columns, np.diag(np.diag(columns)))


def test_dare_keeps_the_expected_sum(rng):
    As, Bs = adapters(rng)
    manual_seed(0)
    found = [combine("knots_dare_linear", WEIGHTS, SCALINGS, As, Bs, density=0.7) for _ in range(600)]
    mean = np.mean([B @ A for A, B in found], axis=0)
    wanted = sum(w * s * (b @ a) for w, s, a, b in zip(WEIGHTS, SCALINGS, As, Bs, strict=True))
    assert relative(mean, wanted) < 0.05
    assert relative(found[0][1] @ found[0][0], wanted) > 0.05


def test_a_smaller_rank_is_the_nearest(rng):
    As, Bs = adapters(rng)
    A, B = combine("knots_ties", WEIGHTS, SCALINGS, As, Bs, density=0.5)
    a, b = combine("knots_ties", WEIGHTS, SCALINGS, As, Bs, density=0.5, svd_rank=2)
    U, S, Vt = np.linalg.svd(B @ A)
    assert_close(b @ a, (U[:, :2] * S[:2]) @ Vt[:2])
    assert [combined_rank("knots_ties", [3, 2, 4], r) for r in (None, 5)] == [9, 5]


def test_nothing_that_is_one_is_changed(rng):
    """A single adapter with all of its entries, and the same adapter twice."""
    (A, *_), (B, *_) = adapters(rng)
    for kind in KNOTS_KINDS:
        a, b = combine(kind, [0.5], [2.0], [A], [B], density=1.0)
        assert_close(b @ a, B @ A)
        a, b = combine(kind, [1.0, 1.0], [1.0, 1.0], [A, A], [B, B], density=1.0)
        times = 1 if "ties" in kind else 2
        assert_close(b @ a, times * (B @ A), atol=1e-9)


def test_directions_that_no_adapter_has_are_not_counted(rng):
    """Twice the same adapter spans r directions, not 2 r: half of the entries is half of those."""
    (A, *_), (B, *_) = adapters(rng)
    _, coordinates = common_basis([1.0, 1.0], [A, A], [B, B])
    assert [V.shape for V in coordinates] == [(3, 9), (3, 9)]
    a, b = combine("knots_magnitude_prune", [1.0, 1.0], [1.0, 1.0], [A, A], [B, B], density=0.5)
    assert (a.shape, b.shape) == ((6, 9), (14, 6))
    assert_close(b @ a, by_the_paper("magnitude_prune", [1.0, 1.0], [B @ A, B @ A], 0.5), atol=1e-9)
    nothing = combine("knots_ties", [1.0, 1.0], [1.0, 1.0], [0 * A, 0 * A], [B, B], density=0.5)
    assert not (nothing[1] @ nothing[0]).any()


@pytest.mark.parametrize("kind", KNOTS_KINDS)
def test_on_a_model(kind):
    model = peft_model(["c_attn", "c_fc"])
    options = {"r": 2, "lora_alpha": 6, "init_lora_weights": False, "fan_in_fan_out": True}
    model.add_adapter("other", LoraConfig(target_modules=["c_attn"], **options))
    model.add_weighted_adapter(["default", "other"], [1.0, -0.5], "sum", kind, density=0.5)
    model.set_adapter("sum")
    assert np.isfinite(logits_of(model)).all()
    ranks = {name.rpartition(".")[2]: layer.r["sum"] for name, layer in model.base_model.layers()}
    assert ranks == {"c_attn": 6, "c_fc": 4}


def test_what_makes_no_sense_is_refused(rng):
    As, Bs = adapters(rng)
    with pytest.raises(ValueError, match="'knots_ties' needs density"):
        combine("knots_ties", WEIGHTS, SCALINGS, As, Bs)
    with pytest.raises(ValueError, match="unknown kind of combination 'knots_linear'"):
        combine("knots_linear", WEIGHTS, SCALINGS, As, Bs)
    with pytest.raises(ValueError, match="svd_rank = 0"):
        combine("knots_ties", WEIGHTS, SCALINGS, As, Bs, density=0.5, svd_rank=0)
    with pytest.raises(ValueError, match="majority_sign_method"):
        combine("knots_ties", WEIGHTS, SCALINGS, As, Bs, density=0.5, majority_sign_method="all")
