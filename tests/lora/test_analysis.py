"""Counts of what is frozen and what is trained, and measures of what was learned."""

import numpy as np
import pytest
from lora_helpers import peft_model, tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.lora.analysis import (
    _rounded,
    amplification,
    format_parameter_table,
    intruder_dimensions,
    merge_error,
    parameter_table,
    similarity_map,
    singular_spectrum,
    subspace_similarity,
)


def adapted(**settings):
    return get_peft_model(tiny_model(), LoraConfig(r=2, fan_in_fan_out=True, **settings))


def test_equal_layers_of_all_blocks_are_one_row():
    model = adapted(target_modules=["c_attn"])
    rows = {part: row for part, *row in parameter_table(model)}
    config = model.config
    C, blocks = config.n_embd, config.n_layer
    assert rows["transformer.h.*.attn.c_attn"] == [blocks, blocks * 3 * C * (C + 1), blocks * 2 * (C + 3 * C)]
    assert rows["transformer.wte"] == [1, config.vocab_size * C, 0]
    assert rows["transformer.h.*.ln_1"] == [blocks, blocks * 2 * C, 0]


def test_the_rows_add_up_to_what_is_trained_and_what_is_not():
    for settings in ({"target_modules": "all-linear"}, {"bias": "all"}, {"bias": "lora_only"}):
        model = adapted(**settings)
        trainable, total = model.get_nb_trainable_parameters()
        counts = np.array([row[2:] for row in parameter_table(model)])
        assert counts.sum(axis=0).tolist() == [total - trainable, trainable]


def test_the_table_as_text_has_a_line_for_each_part_and_one_for_all():
    model = adapted(target_modules=["c_fc"])
    lines = format_parameter_table(model).splitlines()
    assert len(lines) == len(parameter_table(model)) + 2
    trainable, total = model.get_nb_trainable_parameters()
    assert lines[-1].split() == ["all", f"{total - trainable:,}", f"{trainable:,}"]
    assert len({len(line) for line in lines}) == 1


@pytest.fixture
def pair(rng):
    """Two matrices (r, n) with random rows."""
    return rng.standard_normal((4, 12)), rng.standard_normal((6, 12))


def test_the_spectrum_is_that_of_the_matrix_and_ends_at_the_rank(rng):
    A, B = rng.standard_normal((3, 9)), rng.standard_normal((7, 3))
    spectrum = singular_spectrum(B @ A)
    assert spectrum.shape == (7,)
    np.testing.assert_allclose(np.square(spectrum).sum(), np.linalg.norm(B @ A) ** 2)
    assert (spectrum[3:] < 1e-12 * spectrum[0]).all()
    np.testing.assert_allclose(singular_spectrum(np.diag([2.0, -5.0])), [5, 2])


def test_the_spectrum_of_an_adapter_s_update():
    model = peft_model(r=3)
    _, layer = model.base_model.layers()[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    delta = layer.scaling["default"] * (B @ A)  # a Tensor does as well as an array
    np.testing.assert_allclose(singular_spectrum(delta)[:3], np.linalg.svd(delta.data)[1][:3], rtol=1e-5)
    assert singular_spectrum(A).shape == (3,)
    with pytest.raises(ValueError, match=r"expected a matrix, got shape \(3,\)"):
        singular_spectrum(np.ones(3))


def test_similarity_is_the_formula_of_the_paper(pair):
    U1, U2 = (np.linalg.svd(A)[2].T for A in pair)
    found = similarity_map(*pair)
    assert found.shape == (4, 6)
    for i in range(1, 5):
        for j in range(1, 7):
            phi = np.linalg.norm(U1[:, :i].T @ U2[:, :j]) ** 2 / min(i, j)
            np.testing.assert_allclose([found[i - 1, j - 1], subspace_similarity(*pair, i, j)], phi)
            assert 0 <= phi <= 1


def test_a_subspace_is_like_itself_and_unlike_one_at_right_angles(pair):
    A, _ = pair
    same = similarity_map(A, A)
    np.testing.assert_allclose(np.triu(same), np.triu(np.ones((4, 4))))  # the first i lie within the first j >= i
    np.testing.assert_allclose(same, same.T)
    mixed = np.array([[2.0, 1, 0, 0], [0, 1, 3, 0], [1, 0, 0, 1], [0, 0, 1, 1]]) @ A  # other rows, the same span
    np.testing.assert_allclose(subspace_similarity(A, mixed, 4, 4), 1)
    eye = np.eye(8)
    np.testing.assert_allclose(similarity_map(eye[:3], eye[3:]), 0, atol=1e-30)


def test_random_subspaces_share_what_chance_gives_them(rng):
    n = 64
    maps = [similarity_map(rng.standard_normal((8, n)), rng.standard_normal((16, n))) for _ in range(100)]
    i, j = np.ogrid[1:9, 1:17]
    np.testing.assert_allclose(np.mean(maps, axis=0)[3:], (np.maximum(i, j) / n)[3:], rtol=0.25)


def test_similarity_refuses_directions_that_are_not_there(pair):
    for i, j, name, most in ((0, 1, "i", 4), (5, 1, "i", 4), (1, 0, "j", 6), (4, 7, "j", 6)):
        with pytest.raises(ValueError, match=f"{name} must be from 1 to {most}"):
            subspace_similarity(*pair, i, j)
    with pytest.raises(ValueError, match="inputs of one width, got 12 and 11"):
        similarity_map(pair[0], pair[1][:, :11])


def test_amplification_of_a_known_pair():
    """W has the singular values 8, 4, 2, 1 along the axes; ΔW acts on the third alone."""
    W = np.zeros((5, 4))
    W[range(4), range(4)] = [8, 4, 2, 1]
    delta = np.zeros((5, 4))
    delta[2, 2] = 6
    found = amplification(W, delta, 1)
    np.testing.assert_allclose([found.delta, found.weight], [6, np.sqrt(85)])
    np.testing.assert_allclose([found.by_delta, found.by_weight, found.factor], [2, 8, 6 / 2])
    np.testing.assert_allclose(amplification(W, W, 4).factor, 1)
    assert amplification(W, np.eye(5, 4, k=-4), 1).factor == np.inf


def test_amplification_agrees_with_the_singular_vectors(rng):
    W, delta = rng.standard_normal((30, 20)), rng.standard_normal((30, 2)) @ rng.standard_normal((2, 20))
    found = amplification(W, delta, 2, seed=3)
    U, _, Vt = np.linalg.svd(delta)
    np.testing.assert_allclose(found.by_delta, np.linalg.norm(U[:, :2].T @ W @ Vt[:2].T))
    np.testing.assert_allclose(found.by_weight, np.linalg.norm(np.linalg.svd(W)[1][:2]))
    assert found.by_random < found.by_weight
    assert amplification(W, delta, 2, seed=4).by_random != found.by_random
    for r in (0, 21):
        with pytest.raises(ValueError, match="r must be from 1 to 20"):
            amplification(W, delta, r)
    with pytest.raises(ValueError, match=r"one shape, got \(30, 20\) and \(20, 30\)"):
        amplification(W, delta.T, 2)


def test_a_direction_that_w_does_not_have_is_an_intruder():
    W = np.diag([5.0, 4.0, 3.0, 0.1])
    mixed = np.full(4, 0.5)  # equally like all of W's vectors
    turned = 20 * np.outer(mixed, mixed)
    found = intruder_dimensions(W, turned, top_k=1, threshold_epsilon=0.8)
    assert found.indices == [0]
    assert found.cosines.shape == (1,)
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(W + turned)[1])
    assert intruder_dimensions(W, 0 * W).indices == []
    np.testing.assert_allclose(intruder_dimensions(W, 0.1 * W).cosines, 1)


def test_the_cosines_are_the_definition_s(rng):
    W, delta = rng.standard_normal((12, 9)), 3 * rng.standard_normal((12, 2)) @ rng.standard_normal((2, 9))
    found = intruder_dimensions(W, delta, top_k=5)
    for j in range(5):
        y = np.linalg.svd(W + delta)[0][:, j]
        cosines = [abs(y @ x) / np.linalg.norm(x) for x in np.linalg.svd(W, full_matrices=False)[0].T]
        np.testing.assert_allclose(found.cosines[j], max(cosines))
    assert found.indices == [j for j in range(5) if found.cosines[j] < 0.5]


def test_intruders_are_refused_where_there_can_be_none():
    W = np.ones((2, 3))
    for arguments, error, message in (
        ((W, W.T), ValueError, r"one shape, got \(2, 3\) and \(3, 2\)"),
        ((W, W, 0), ValueError, "top_k must be at least 1"),
        ((W, W, 2, -0.5), ValueError, "threshold_epsilon must not be negative"),
    ):
        with pytest.raises(error, match=message):
            intruder_dimensions(*arguments)


# Half a unit in the last place, relative: of float64, float32, float16 and bfloat16.
@pytest.mark.parametrize(
    ("dtype", "unit"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24), (np.float16, 2.0**-11), ("bfloat16", 2.0**-8)]
)
def test_merging_costs_what_the_dtype_rounds_off(rng, dtype, unit):
    W, A, B = (rng.standard_normal(shape) for shape in ((48, 64), (4, 64), (48, 4)))
    largest, relative = merge_error(W, A, B, 0.5, dtype)
    assert 0.1 * unit < relative < (4 if dtype == np.float64 else 1) * unit
    assert relative < largest / np.sqrt(64)  # results have a size of about √in
    assert merge_error(W, A, B, 0.5, dtype) == (largest, relative)


def test_merging_numbers_that_fit_costs_nothing(rng):
    W, A, B = (rng.integers(-3, 4, shape) for shape in ((6, 5), (2, 5), (6, 2)))
    for dtype in (np.float16, np.float32, "bfloat16"):
        assert merge_error(W, A, B, 2, dtype)[1] < 1e-15


@pytest.mark.parity
def test_bfloat16_is_rounded_as_torch_rounds_it(rng):
    import torch

    x = np.concatenate([rng.standard_normal(2000), [1 + 2**-8, 1 + 3 * 2**-8, 0.0, -2.5e30, 1e-30]])[None]
    expected = torch.tensor(x).to(torch.float32).to(torch.bfloat16).to(torch.float64).numpy()
    np.testing.assert_array_equal(_rounded(x, "bfloat16"), expected)
