"""The directions in which rows vary most, batch by batch."""

import numpy as np
import pytest

from lora_np.lora.starts.pca import EXACT, Directions, leading


def rows_of_rank(rank, n=300, width=250, seed=0):
    """Rows (n, width) whose singular values fall by a fifth each time, around a mean that is not zero."""
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((n, rank)))
    V, _ = np.linalg.qr(np.random.default_rng(9).standard_normal((width, rank)))  # the same for all
    return (U * 0.8 ** np.arange(rank)) @ V.T + 0.1


@pytest.mark.parametrize("k", [4, 200], ids=["projected", "exact"])
def test_the_leading_directions(k):
    rows = rows_of_rank(220)
    V, S = leading(rows, k)
    _, all_S, all_V = np.linalg.svd(rows, full_matrices=False)
    assert (min(rows.shape) > EXACT * k) == (k == 4)
    np.testing.assert_allclose(S, all_S[:k], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(abs((V[:4] * all_V[:4]).sum(axis=1)), 1, atol=1e-4)


def test_batches_together_are_as_one():
    batches = [rows_of_rank(6, seed=seed) * (1 + seed) for seed in range(3)]
    found = Directions(8, tau=0.99)
    for batch in batches:
        found.add(batch)
    rows = np.concatenate(batches)
    _, S, V = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.singular_values[:6], S[:6], rtol=1e-6)
    np.testing.assert_allclose(abs((found.components[:6] * V[:6]).sum(axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(found.explained[:6], S[:6] ** 2 / (S**2).sum(), rtol=1e-6)
    assert (found.components[np.arange(6), abs(found.components[:6]).argmax(axis=1)] > 0).all()


def test_what_a_batch_leaves_in_place_has_converged():
    found = Directions(4, tau=0.99)
    found.add(rows_of_rank(6))
    assert not found.converged.any()
    found.add(rows_of_rank(6))
    assert found.converged.all()
    found.add(1000 * np.random.default_rng(1).standard_normal((300, 250)))
    assert not found.converged.any()


@pytest.mark.parity
@pytest.mark.parametrize("lowrank", [False, True])
def test_peft_finds_the_same(lowrank):
    import torch
    from peft.utils.incremental_pca import IncrementalPCA

    theirs, ours = IncrementalPCA(4, lowrank=lowrank, lowrank_seed=42 if lowrank else None), Directions(4, 0.99)
    for seed in range(3):
        batch = rows_of_rank(30, seed=seed)
        theirs.partial_fit(torch.tensor(batch))
        ours.add(batch)
        np.testing.assert_allclose(ours.components, theirs.components_, atol=1e-3)
        np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-3)
