"""Several adapters made into one: against the formulas, NumPy's SVD, and PEFT."""

import numpy as np
import pytest
from helpers import assert_close, examples
from hypothesis import given
from hypothesis import strategies as st

from lora_np import manual_seed
from lora_np.autograd.devices import array_module, to_numpy
from lora_np.lora import combine as C
from lora_np.lora.combine import combine, combined_rank

IN, OUT, R = 7, 6, 3
WEIGHTS, SCALINGS = [0.7, -1.3, 0.4], [2.0, 0.5, 1.0]
DENSITY_KINDS = [kind for kind in C.KINDS if kind.startswith(("ties", "dare", "magnitude"))]
EQUAL_RANK_KINDS = list(C.MERGES)


def adapters(xp=np, ranks=(R, R, R), shape=(OUT, IN), dtype=np.float64, seed=0):
    """Random As and Bs."""
    rng, (fan_out, fan_in) = np.random.default_rng(seed), shape
    As = [xp.asarray(rng.standard_normal((r, fan_in)), dtype=dtype) for r in ranks]
    Bs = [xp.asarray(rng.standard_normal((fan_out, r)), dtype=dtype) for r in ranks]
    return As, Bs


def weighted_sum(weights, scalings, As, Bs):
    """Σ w s B A."""
    return sum(w * s * (B @ A) for w, s, A, B in zip(weights, scalings, As, Bs, strict=True))


def best_of_rank(delta, rank):
    """NumPy's truncated SVD, multiplied out again."""
    U, S, Vt = np.linalg.svd(to_numpy(delta), full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


def test_cat_is_the_weighted_sum(xp):
    As, Bs = adapters(xp, ranks=(1, 4, 2))
    A, B = combine("cat", WEIGHTS, SCALINGS, As, Bs)
    assert (A.shape, B.shape) == ((7, IN), (OUT, 7))
    assert_close(B @ A, weighted_sum(WEIGHTS, SCALINGS, As, Bs))
    assert_close(B, np.concatenate([to_numpy(X) for X in Bs], axis=1))


@pytest.mark.parametrize("svd_rank", [None, 1, 2, 5, OUT])
def test_svd_is_the_truncated_svd_of_the_sum(xp, svd_rank):
    As, Bs = adapters(xp, ranks=(1, 3, 2))
    A, B = combine("svd", WEIGHTS, SCALINGS, As, Bs, svd_rank=svd_rank)
    rank = svd_rank or 3
    assert (A.shape, B.shape) == ((rank, IN), (OUT, rank))
    assert_close(B @ A, best_of_rank(weighted_sum(WEIGHTS, SCALINGS, As, Bs), rank))
    assert_close(A @ A.T, np.eye(rank))  # the whole size of the sum is in B


def test_svd_of_a_large_layer_never_forms_its_matrix(monkeypatch):
    seen = []
    truncated_svd = C.truncated_svd
    monkeypatch.setattr(C, "truncated_svd", lambda delta, rank: seen.append(delta.shape) or truncated_svd(delta, rank))
    As, Bs = adapters(shape=(300, 200))
    combine("svd", WEIGHTS, SCALINGS, As, Bs)
    assert seen == [(9, 9)]


@pytest.mark.parametrize("kind", C.SVD_KINDS)
def test_where_the_rank_suffices_svd_kinds_lose_nothing(xp, kind):
    As, Bs = adapters(xp)
    A, B = combine(kind, WEIGHTS, SCALINGS, As, Bs, svd_rank=min(OUT, IN), density=1)
    deltas = [s * (b @ a) for s, a, b in zip(SCALINGS, As, Bs, strict=True)]
    expected = C.task_arithmetic(deltas, WEIGHTS)
    if "ties" in kind:
        expected = C.disjoint_mean(deltas, WEIGHTS, C.elect_sign(deltas))
    assert_close(B @ A, expected)


@pytest.mark.parametrize("kind", C.SVD_KINDS)
def test_a_default_rank_beyond_the_layer_is_filled_with_zeros(xp, kind):
    As, Bs = adapters(xp, ranks=(5, 2), shape=(3, 4))
    A, B = combine(kind, [1.0, -2.0], [1.0, 0.5], As, Bs, density=1)
    assert (A.shape, B.shape) == ((5, 4), (3, 5))
    assert not A[3:].any()
    assert not B[:, 3:].any()
    if "ties" not in kind:
        assert_close(B @ A, weighted_sum([1.0, -2.0], [1.0, 0.5], As, Bs))


def test_a_rank_left_over_in_svd_can_still_be_trained(xp):
    As, Bs = adapters(xp, ranks=(1, 1))
    A, B = combine("svd", [1.0, 1.0], [1.0, 1.0], As, Bs, svd_rank=4)
    assert_close(A @ A.T, np.eye(4))
    assert_close(B[:, 2:], np.zeros((OUT, 2)))


def test_linear_is_the_formula_with_its_cross_terms(xp):
    (a, b), (c, d) = adapters(xp, ranks=(R, R))
    A, B = combine("linear", [2.0, -3.0], [0.5, 3.0], [a, b], [c, d])
    assert_close(A, a - 3 * b)
    assert_close(B, c + 3 * d)
    assert_close(B @ A, c @ a - 9 * (d @ b) + 3 * (d @ a) - 3 * (c @ b))


@pytest.mark.parametrize("kind", C.KINDS)
@pytest.mark.parametrize("weight", [1.5, -1.5])
def test_one_adapter_alone_stays_what_it_is(xp, kind, weight):
    As, Bs = adapters(xp, ranks=(R,))
    A, B = combine(kind, [weight], [2.0], As, Bs, density=1)
    assert_close(B @ A, weighted_sum([weight], [2.0], As, Bs))


@pytest.mark.parametrize("kind", C.KINDS)
def test_a_weight_of_zero_is_allowed(kind):
    As, Bs = adapters(ranks=(R, R))
    A, B = combine(kind, [0.0, -0.0], [1.0, 1.0], As, Bs, density=1)
    assert_close(B @ A, np.zeros((OUT, IN)))


@pytest.mark.parametrize("kind", C.KINDS)
@pytest.mark.parametrize(
    ("given_dtype", "dtype"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_results_are_in_float32_or_better_and_on_the_same_device(xp, kind, given_dtype, dtype):
    As, Bs = adapters(xp, dtype=given_dtype)
    before = [to_numpy(X).copy() for X in (*As, *Bs)]
    settings = {"density": np.float64(0.5), "svd_rank": 2}
    for part in combine(kind, np.array(WEIGHTS), np.array(SCALINGS), As, Bs, **settings):
        assert part.dtype == dtype
        assert array_module(part) is xp
    assert all((to_numpy(X) == old).all() for X, old in zip((*As, *Bs), before, strict=True))


def test_prune_keeps_the_largest(xp):
    t = xp.asarray([[1.0, -5.0, 2.0], [-3.0, 0.0, 4.0]])
    assert_close(C.prune_by_magnitude(t, 0.5), np.array([[0, -5, 0], [-3, 0, 4.0]]))
    assert_close(C.prune_by_magnitude(t, 0.49), np.array([[0, -5, 0], [0, 0, 4.0]]))  # rounds down
    assert_close(C.prune_by_magnitude(t, 1), t)
    assert_close(C.prune_by_magnitude(t, 0.1), np.zeros((2, 3)))


def test_prune_keeps_the_first_of_equals(xp):
    t = xp.asarray([1.0, -1.0, 1.0, -1.0, 2.0])
    assert_close(C.prune_by_magnitude(t, 0.6), np.array([1.0, -1.0, 0, 0, 2.0]))


def test_the_election_by_magnitude_and_by_number(xp):
    tensors = [xp.asarray(t) for t in ([5.0, -1.0, 0.0, 1.0], [-1.0, -2.0, 0.0, -1.0], [-1.0, 1.0, 0.0, 0.0])]
    assert_close(C.elect_sign(tensors), np.array([1, -1, 1, 1]))
    assert_close(C.elect_sign(tensors, "frequency"), np.array([-1, -1, 1, 1]))


def test_the_disjoint_mean_by_hand(xp):
    tensors = [xp.asarray(t) for t in ([4.0, -1.0, 0.0, 0.0], [2.0, 3.0, -1.0, 0.0], [-1.0, 5.0, -3.0, 0.0])]
    sign = xp.asarray([1, 1, -1, 1])
    assert_close(C.disjoint_mean(tensors, [1.0, 1.0, 1.0], sign), np.array([3.0, 4.0, -2.0, 0.0]))
    assert_close(C.disjoint_mean(tensors, [1.0, -2.0, 0.5], sign), np.array([0.0, -1.75, 0.25, 0.0]))


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_dare_keeps_the_fraction_it_says_and_rescales(xp, density):
    t = xp.asarray(np.random.default_rng(0).uniform(1, 2, 40_000), dtype=np.float32)
    found = C.dare(t, density)
    kept = found != 0
    assert found.dtype == np.float32
    assert abs(float(kept.mean()) - density) < 5 * np.sqrt(density * (1 - density) / t.size)
    assert_close(found[kept], t[kept] / density, rtol=1e-6)


def test_dare_draws_from_the_seed_and_for_each_adapter_anew(xp):
    As, Bs = adapters(xp)
    results = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        results.append(to_numpy(combine("dare_linear", WEIGHTS, SCALINGS, As, Bs, density=0.5)[0]))
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()
    ones = xp.ones(200)
    assert (C.dare(ones, 0.5) != C.dare(ones, 0.5)).any()


@pytest.mark.parametrize("kind", ["dare_linear", "dare_linear_svd"])
def test_on_average_dare_is_task_arithmetic(kind):
    As, Bs = adapters()
    settings = {"svd_rank": OUT} if kind.endswith("svd") else {}
    found = []
    for seed in range(800):
        manual_seed(seed)
        A, B = combine(kind, WEIGHTS, SCALINGS, As, Bs, density=0.6, **settings)
        found.append(B @ A)
    A, B = combine(kind.replace("dare_linear_svd", "svd").replace("dare_", ""), WEIGHTS, SCALINGS, As, Bs, **settings)
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - B @ A) < 5 * error).all()
    assert (error > 1e-4).all()  # it did drop something


@pytest.mark.parametrize("suffix", ["", "_svd"])
def test_dare_that_drops_nothing_is_the_kind_beside_it(suffix):
    As, Bs = adapters()
    for dare, plain in (("dare_linear", "linear" if not suffix else ""), ("dare_ties", "ties")):
        found = combine(dare + suffix, WEIGHTS, SCALINGS, As, Bs, density=1)
        expected = combine((plain + suffix).removeprefix("_"), WEIGHTS, SCALINGS, As, Bs, density=1)
        assert_close(found[1] @ found[0], expected[1] @ expected[0])


def test_dare_ties_elects_among_what_is_left(xp):
    As, Bs = adapters(xp, dtype=np.float32)
    manual_seed(3)
    A, _ = combine("dare_ties", [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], As, Bs, density=0.5)
    manual_seed(3)
    left = [C.dare(t, 0.5) for t in As]
    assert_close(A, C.disjoint_mean(left, [1.0, 1.0, 1.0], C.elect_sign(left)))


@examples
@given(st.data())
def test_exact_kinds_for_any_shape(data):
    size = st.integers(1, 6)
    shape = data.draw(size), data.draw(size)
    ranks = data.draw(st.lists(size, min_size=1, max_size=4))
    number = st.floats(-3, 3, allow_subnormal=False)
    weights, scalings = (data.draw(st.lists(number, min_size=len(ranks), max_size=len(ranks))) for _ in range(2))
    As, Bs = adapters(ranks=ranks, shape=shape, seed=data.draw(st.integers(0, 99)))
    svd_rank = data.draw(st.none() | st.integers(1, min(shape)))
    delta = weighted_sum(weights, scalings, As, Bs)
    for kind, expected in (("cat", delta), ("svd", best_of_rank(delta, svd_rank or max(ranks)))):
        A, B = combine(kind, weights, scalings, As, Bs, svd_rank=svd_rank)
        rank = combined_rank(kind, ranks, svd_rank)
        assert (A.shape, B.shape) == ((rank, shape[1]), (shape[0], rank))
        assert_close(B @ A, expected, atol=1e-9)


@examples
@given(kind=st.sampled_from(C.KINDS), r=st.integers(1, 5), count=st.integers(1, 4), density=st.floats(0.01, 1))
def test_every_kind_gives_finite_arrays_of_the_rank_it_says(kind, r, count, density):
    As, Bs = adapters(ranks=(r,) * count)
    A, B = combine(kind, [-0.5] * count, [1.0] * count, As, Bs, density=density)
    rank = combined_rank(kind, [r] * count)
    assert (A.shape, B.shape) == ((rank, IN), (OUT, rank))
    assert np.isfinite(A).all()
    assert np.isfinite(B).all()


def test_the_rank_of_the_result():
    assert combined_rank("cat", [2, 3, 3]) == 8
    assert combined_rank("svd", [2, 3]) == combined_rank("ties_svd", [2, 3]) == 3
    assert combined_rank("svd", [2, 3], 1) == 1
    assert combined_rank("linear", [4, 4]) == combined_rank("dare_ties", [4, 4], svd_rank=2) == 4


@pytest.mark.parametrize("kind", EQUAL_RANK_KINDS)
def test_unequal_ranks_are_refused_where_matrices_are_added(kind):
    with pytest.raises(ValueError, match=rf"'{kind}' needs adapters of equal rank, not 2, 3, 2: use 'cat' or 'svd'"):
        combined_rank(kind, [2, 3, 2])
    As, Bs = adapters(ranks=(2, 3))
    with pytest.raises(ValueError, match="equal rank"):
        combine(kind, [1.0, 1.0], [1.0, 1.0], As, Bs, density=0.5)


@pytest.mark.parametrize("kind", ["concat", "linear_svd", "", None])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind):
    with pytest.raises(ValueError, match="unknown kind of combination") as refused:
        combine(kind, WEIGHTS, SCALINGS, *adapters())
    assert all(known in str(refused.value) for known in C.KINDS)


@pytest.mark.parametrize("kind", C.KINDS)
def test_no_adapters_are_refused(kind):
    with pytest.raises(ValueError, match="no adapters to combine"):
        combine(kind, [], [], [], [], density=0.5)


@pytest.mark.parametrize("short", range(4))
def test_lists_of_different_length_are_refused(short):
    lists = [WEIGHTS, SCALINGS, *adapters()]
    lists[short] = lists[short][:2]
    counts = [2 if i == short else 3 for i in range(4)]
    with pytest.raises(ValueError, match="{} weights and {} scalings for {} matrices A and {} B".format(*counts)):
        combine("cat", *lists)


@pytest.mark.parametrize("kind", DENSITY_KINDS)
@pytest.mark.parametrize("density", [None, 0, -0.1, 1.01, float("nan")])
def test_a_density_missing_or_out_of_range_is_refused(kind, density):
    with pytest.raises(ValueError, match=rf"'{kind}' needs density, .* in \(0, 1\], not {density}"):
        combine(kind, WEIGHTS, SCALINGS, *adapters(), density=density)


@pytest.mark.parametrize("kind", C.SVD_KINDS)
def test_an_svd_rank_out_of_range_is_refused(kind):
    for svd_rank in (0, -1):
        with pytest.raises(ValueError, match=f"svd_rank = {svd_rank}: expected an integer, at least 1, or None: 3"):
            combine(kind, WEIGHTS, SCALINGS, *adapters(), svd_rank=svd_rank, density=0.5)


@pytest.mark.parametrize("kind", [kind for kind in C.KINDS if "ties" in kind])
def test_an_unknown_sign_method_is_refused(kind):
    with pytest.raises(ValueError, match="majority_sign_method = 'votes': expected 'total' or 'frequency'"):
        combine(kind, WEIGHTS, SCALINGS, *adapters(), density=0.5, majority_sign_method="votes")


@pytest.mark.parity
@pytest.mark.parametrize("method", C.SIGN_METHODS)
@pytest.mark.parametrize("density", [0.1, 0.37, 0.8, 1])
@pytest.mark.filterwarnings("ignore:The density")
def test_merging_matches_pefts_functions(method, density):
    import torch
    from peft.utils import merge_utils

    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal((9, 11)) for _ in range(4)]
    weights = [0.5, -1.5, 2.0, 0.0]
    theirs = [torch.from_numpy(t) for t in tensors], torch.tensor(weights, dtype=torch.float64)
    for kind, expected in (
        ("linear", merge_utils.task_arithmetic(*theirs)),
        ("magnitude_prune", merge_utils.magnitude_prune(*theirs, density)),
        ("ties", merge_utils.ties(*theirs, density, method)),
    ):
        assert_close(C.merge(kind, tensors, weights, density, method), expected.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("method", C.SIGN_METHODS)
def test_ties_matches_pefts_also_where_signs_draw_and_entries_are_zero(method):
    import torch
    from peft.utils import merge_utils

    tensors = [np.random.default_rng(seed).integers(-2, 3, (8, 8)).astype(np.float64) for seed in range(4)]
    weights = [1.0, -1.0, 0.5, 2.0]
    sign = merge_utils.calculate_majority_sign_mask(torch.from_numpy(np.stack(tensors)), method)
    weighted = torch.from_numpy(np.stack([w * t for w, t in zip(weights, tensors, strict=True)]))
    expected = merge_utils.disjoint_merge(weighted, sign)
    assert_close(C.disjoint_mean(tensors, weights, C.elect_sign(tensors, method)), expected.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("kind", [kind for kind in C.KINDS if "dare" not in kind and "knots" not in kind])
@pytest.mark.parametrize("weights", [(0.7, 1.2), (0.7, -1.2), (-0.3, -2.0)], ids=str)
def test_one_layer_matches_pefts_add_weighted_adapter(kind, weights):
    import torch
    from peft import LoraConfig, get_peft_model

    As, Bs = adapters(ranks=(R, R))
    configs = [LoraConfig(r=R, lora_alpha=alpha, target_modules=["0"]) for alpha in (6, 2)]
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(IN, OUT)), configs[0], adapter_name="0")
    model.add_adapter("1", configs[1])
    model.double()
    layer = model.base_model.model[0]
    for i, (A, B) in enumerate(zip(As, Bs, strict=True)):
        layer.lora_A[str(i)].weight.data = torch.from_numpy(A)
        layer.lora_B[str(i)].weight.data = torch.from_numpy(B)
    model.add_weighted_adapter(["0", "1"], list(weights), "both", combination_type=kind, density=0.6)
    theirs = [part["both"].weight.detach().numpy() for part in (layer.lora_A, layer.lora_B)]
    ours = combine(kind, weights, [6 / R, 2 / R], As, Bs, density=0.6)
    assert layer.scaling["both"] == 1
    assert_close(ours[1] @ ours[0], theirs[1] @ theirs[0], rtol=1e-5, atol=1e-6)  # PEFT keeps the weights in float32
    if kind not in C.SVD_KINDS:  # there, singular vectors may differ in sign
        for our, their in zip(ours, theirs, strict=True):
            assert_close(our, their, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", C.SVD_KINDS)
def test_an_svd_rank_above_the_weights_own_adds_zeros(kind):
    largest, larger = (combine(kind, WEIGHTS, SCALINGS, *adapters(), svd_rank=r, density=1) for r in (min(OUT, IN), 9))
    assert (larger[0].shape, larger[1].shape) == ((9, IN), (OUT, 9))
    assert_close(larger[1] @ larger[0], largest[1] @ largest[0])
