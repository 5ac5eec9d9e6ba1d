"""GaLore: the gradient projected, the whole weight trained."""

import numpy as np
import pytest
from optimizer_helpers import as_in_a_file, losses_of
from training_helpers import tiny

from lora_np import AdamW, GaLoreAdamW
from lora_np.autograd.devices import to_numpy
from lora_np.nn import Parameter

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}


def by_hand(w, grads, rank, gap, scale, lr, betas, eps, weight_decay):
    """The paper's algorithm 2; m and v are weighted sums over all steps so far, in float64."""
    wide = w.shape[0] <= w.shape[1]
    lows = []
    for t, g in enumerate(grads, 1):
        if (t - 1) % gap == 0:
            values, vectors = np.linalg.eigh(g @ g.T if wide else g.T @ g)
            P = vectors[:, np.argsort(-values)[:rank]]
        lows.append(P.T @ g if wide else g @ P)
        ages = np.arange(t)[::-1]
        m, v = (
            sum(beta**a * low**power for a, low in zip(ages, lows, strict=True)) * (1 - beta)
            for beta, power in zip(betas, (1, 2), strict=True)
        )
        step = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        w = w * (1 - lr * weight_decay) - lr * scale * (P @ step if wide else step @ P.T)
    return w


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)], ids=str)
def test_steps_are_the_algorithms(rng, xp, shape):
    """Within one projection: the signs of singular vectors are free, and m and v of one projection fit no other."""
    grads = [rng.standard_normal(shape) for _ in range(5)]
    p = Parameter(xp.asarray(rng.standard_normal(shape)))
    begin = to_numpy(p.data).copy()
    optimizer = GaLoreAdamW([p], rank=3, update_proj_gap=100, scale=0.5, **SETTINGS)
    for g in grads:
        p.grad = xp.asarray(g)
        optimizer.step()
    np.testing.assert_allclose(to_numpy(p.data), by_hand(begin, grads, 3, 100, 0.5, **SETTINGS), rtol=1e-9)


def test_a_new_projection_comes_every_so_many_steps(rng):
    p = Parameter(rng.standard_normal((6, 20)))
    optimizer, seen = GaLoreAdamW([p], lr=0.01, rank=2, update_proj_gap=3), []
    for _ in range(7):
        p.grad = rng.standard_normal(p.shape)
        optimizer.step()
        P = optimizer.state[id(p)]["projection"]
        np.testing.assert_allclose(P.T @ P, np.eye(2), atol=1e-12)
        seen.append(P.tobytes())
    assert [seen.index(P) for P in seen] == [0, 0, 0, 3, 3, 3, 6]


def test_a_step_has_rank_r_and_many_have_more(rng):
    p = Parameter(rng.standard_normal((12, 30)))
    begin, optimizer, ranks = p.data.copy(), GaLoreAdamW([p], lr=0.1, rank=2, update_proj_gap=1), []
    for _ in range(4):
        p.grad = rng.standard_normal(p.shape)
        optimizer.step()
        ranks.append(int(np.linalg.matrix_rank(p.data - begin, tol=1e-9)))
    assert ranks == [2, 4, 6, 8]


def test_what_is_no_matrix_and_groups_without_a_rank_get_adamws_step(rng):
    begin = [rng.standard_normal(shape) for shape in ((5,), (4, 6), (4, 6))]
    params, others = ([Parameter(w.copy()) for w in begin] for _ in range(2))
    groups = [{"params": params[:1]}, {"params": params[1:2], "rank": None}, {"params": params[2:], "rank": 2}]
    optimizer, plain = GaLoreAdamW(groups, **SETTINGS), AdamW(others, **SETTINGS)
    for p, q in zip(params, others, strict=True):
        p.grad = q.grad = rng.standard_normal(p.shape)
    optimizer.step()
    plain.step()
    same = [np.array_equal(p.data, q.data) for p, q in zip(params, others, strict=True)]
    assert same == [True, True, False]
    assert optimizer.param_groups[0]["rank"] == 128


def test_the_memory_is_that_of_the_small_space_and_the_loss_falls():
    runs = {}
    for kind, options in ((AdamW, {"lr": 3e-3}), (GaLoreAdamW, {"lr": 3e-2, "rank": 4, "update_proj_gap": 10})):
        model = tiny(width=32)
        matrices = [p for p in model.parameters() if p.ndim == 2]
        optimizer = kind(matrices, **options)
        losses = losses_of(model, optimizer, 30)
        assert losses[-1] < 0.7 * losses[0]
        runs[kind] = optimizer.state_nbytes()
    assert runs[AdamW] == sum(8 * p.size for p in matrices)
    assert runs[GaLoreAdamW] == sum(4 * (2 * 4 * max(p.shape) + 4 * min(p.shape)) for p in matrices)


def test_saved_state_continues_identically_and_what_does_not_fit_is_refused(rng):
    begin = [rng.standard_normal((6, 10)), rng.standard_normal(5)]
    grads = [[rng.standard_normal(w.shape) for w in begin] for _ in range(6)]
    options, runs = {"lr": 0.01, "rank": 2, "update_proj_gap": 4}, []
    for reloaded in (False, True):
        params = [Parameter(w.copy()) for w in begin]
        optimizer = GaLoreAdamW(params, **options)
        for i, step in enumerate(grads):
            if i == 3 and reloaded:
                state, optimizer = as_in_a_file(optimizer.state_dict()), GaLoreAdamW(params, **options)
                optimizer.load_state_dict(state)
            for p, g in zip(params, step, strict=True):
                p.grad = g
            optimizer.step()
        runs.append([p.data for p in params])
    for found, expected in zip(*runs, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"'0\.m' is float64 of shape \(2, 10\), .* of \(3, 10\)"):
        optimizer.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], "rank": 3}]})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"rank": 2.0}, TypeError, "rank should be a whole number"),
        ({"update_proj_gap": 0}, ValueError, "update_proj_gap must be at least 1"),
        ({"scale": 0.0}, ValueError, "scale must be positive"),
        ({"proj_type": "std"}, TypeError, "GaLoreAdamW has no argument 'proj_type'"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        GaLoreAdamW([Parameter(np.ones((2, 2)))], **options)
