"""RandLoRA: a sum of random matrices whose weights are trained."""

import numpy as np
import pytest
from family_twins import (
    BASES,
    OneLayer,
    adapted,
    assert_comes_back,
    assert_equal_in_peft,
    assert_fields_are_pefts,
    assert_gradients_by_differences,
    assert_read_from_peft,
    losses_of_training,
    moved,
)
from lora_helpers import assert_merges, logits_of, refusal, relative, tiny_llama

from lora_np import get_peft_model
from lora_np.lora import RandLoraConfig

each_base = pytest.mark.parametrize("base", ["gpt2", "llama"])
OPTIONS = {"r": 5, "randlora_alpha": 20}
each_basis = pytest.mark.parametrize("basis", [{}, {"sparse": True}, {"very_sparse": True}])


def shared(model):
    return {name.split(".")[1]: buffer.data for name, buffer in model.named_buffers()}


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = adapted(RandLoraConfig, base)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), expected := logits_of(model))
    assert relative(logits_of(adapted(RandLoraConfig, base, init_weights=False)), expected) > 1e-2


def test_what_is_trained_and_the_rank_of_the_update():
    model = moved(RandLoraConfig, scale=1.0, **OPTIONS)
    n = 4  # ⌈16 / 5⌉; the widest sides are 24 and 16
    assert {name: array.shape for name, array in shared(model).items()} == {
        "randlora_A": (5, 1, 16),
        "randlora_B": (24, n, 5),
    }
    assert model.get_nb_trainable_parameters()[0] == 2 * 2 * n * (5 + 16)
    for _, layer in model.base_model.layers():
        assert np.linalg.matrix_rank(layer.get_delta_weight("default")) == 16


def test_the_update_is_the_sum_that_the_formula_says():
    model = moved(RandLoraConfig, dtype=np.float64, **OPTIONS)
    bases = shared(model)
    for _, layer in model.base_model.layers():
        adapter = layer.adapters["default"]
        scales, weights = adapter.randlora_lambda.data, adapter.randlora_gamma.data
        rows = [scales[k, j] * bases["randlora_A"][k, 0] * weights[j] for k in range(5) for j in range(4)]
        wide = max(layer.in_features, layer.out_features)
        columns = [bases["randlora_B"][:wide, j, k] for j in range(4) for k in range(5)]
        delta = 20 / 5 * sum(np.outer(column, row) for column, row in zip(columns, rows, strict=True))
        expected = delta.T if layer.out_features < layer.in_features else delta
        np.testing.assert_allclose(adapter.delta_weight(), expected, rtol=1e-9, atol=1e-12)


@each_basis
def test_the_bases_follow_from_the_key_and_have_a_deviation_of_one(basis):
    model, again, other = (
        get_peft_model(OneLayer(100, 144), RandLoraConfig(r=20, target_modules=["layer"], **options))
        for options in (basis, basis, {**basis, "projection_prng_key": 1})
    )
    for name, array in shared(model).items():
        np.testing.assert_array_equal(shared(again)[name], array)
        assert (shared(other)[name] != array).any()
        assert array.std() == pytest.approx(1, rel=1e-2)
        if basis:
            smallest = 2 / 3 if "sparse" in basis else 1 - 1 / 10
            assert (array == 0).mean() == pytest.approx(smallest, abs=0.03)
            assert len(np.unique(np.abs(array))) == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(moved(RandLoraConfig, base, dtype, **OPTIONS), tolerance)


def test_scaling_several_adapters_and_switching_off():
    model = moved(RandLoraConfig, **OPTIONS)
    expected = logits_of(model)
    options = {"r": 3, "target_modules": ["q_proj"], "projection_prng_key": 4, "init_weights": False}
    model.add_adapter("other", RandLoraConfig(**options))
    np.testing.assert_array_equal(logits_of(model), expected)  # each has bases of its own
    model.set_adapter(["default", "other"])
    both = logits_of(model)
    model.merge_adapter()
    assert relative(logits_of(model), both) < 1e-5
    model.unmerge_adapter()
    model.delete_adapter("other")
    before = model.base_model.layers()[0][1].get_delta_weight("default")
    model.set_scale("default", 0.5)
    np.testing.assert_allclose(model.base_model.layers()[0][1].get_delta_weight("default"), before / 2, rtol=1e-6)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_llama()))


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    assert_comes_back(moved(RandLoraConfig, base, **OPTIONS, projection_prng_key=3, sparse=True), base, tmp_path)


@each_base
def test_gradients_by_finite_differences(base):
    assert_gradients_by_differences(moved(RandLoraConfig, base, np.float64, **OPTIONS))


def test_training_lowers_the_loss():
    losses = losses_of_training(adapted(RandLoraConfig, r=4, randlora_alpha=80, randlora_dropout=0.1), lr=1e-2)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1, got 0"),
        ({"randlora_alpha": None}, "randlora_alpha must be a number, got None"),
        ({"randlora_dropout": 2}, "randlora_dropout must be in [0, 1), got 2"),
        ({"projection_prng_key": -1}, "projection_prng_key must not be negative, got -1"),
        ({"projection_prng_key": "a"}, "projection_prng_key must be an integer, got 'a'"),
        ({"save_projection": False}, "save_projection=False: A and B must be saved"),
        ({"very_sparse": 3}, "very_sparse must be True or False, got 3"),
        ({"bias": "lora_only"}, "'randlora_only'"),
    ],
)
def test_what_is_refused_by_the_constructor_and_in_files(options, message):
    assert message in refusal(ValueError, lambda: RandLoraConfig(**options))
    assert message in refusal(ValueError, lambda: RandLoraConfig.from_dict({"peft_type": "RANDLORA", **options}))


def test_layers_that_it_does_not_adapt():
    config = RandLoraConfig(target_modules=["embed_tokens"])
    assert "is an Embedding" in refusal(ValueError, lambda: get_peft_model(tiny_llama(), config))


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        assert_fields_are_pefts(RandLoraConfig)

    @each_base
    def test_logits_and_gradients_of_our_files_there(self, base, tmp_path):
        assert_equal_in_peft(moved(RandLoraConfig, base, scale=0.1, **OPTIONS), base, tmp_path)

    @each_base
    def test_in_float64(self, base, tmp_path):
        assert_equal_in_peft(moved(RandLoraConfig, base, np.float64, **OPTIONS), base, tmp_path, np.float64)

    def test_sparse_bases_of_ours_there(self, tmp_path):
        assert_equal_in_peft(moved(RandLoraConfig, scale=0.1, **OPTIONS, very_sparse=True), "llama", tmp_path)

    @pytest.mark.parametrize(("base", "basis"), [("gpt2", {}), ("llama", {}), ("llama", {"sparse": True})])
    def test_their_files_here(self, base, basis, tmp_path):
        import peft

        options = {"target_modules": BASES[base][1], "fan_in_fan_out": base == "gpt2", "init_weights": False}
        assert_read_from_peft(peft.RandLoraConfig(**OPTIONS, **options, **basis), base, tmp_path)
