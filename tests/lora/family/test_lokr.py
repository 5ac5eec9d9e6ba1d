"""LoKr: the Kronecker product of two small matrices."""

import numpy as np
import pytest
from family_twins import (
    OneLayer,
    adapted,
    assert_comes_back,
    assert_equal_in_peft,
    assert_fields_are_pefts,
    assert_gradients_by_differences,
    assert_read_from_peft,
    assert_same_rank_dropout,
    losses_of_training,
    moved,
)
from lora_helpers import assert_merges, logits_of, perturbed, refusal, relative

from lora_np import get_peft_model, nn
from lora_np.lora import LoKrConfig
from lora_np.lora.family.lokr import two_factors

each_base = pytest.mark.parametrize("base", ["gpt2", "llama"])
# 16 = 4·4 and 24 = 4·6, so that ranks below 2 and 3 make products.
SHAPES = {
    "both whole": {"r": 8},
    "the second a product": {"r": 1},
    "both products": {"r": 1, "decompose_both": True},
    "a factor": {"r": 2, "decompose_factor": 2, "alpha": 3},
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


def names_of(model):
    """What the adapter of the first layer consists of."""
    return set(model.base_model.layers()[0][1].adapters["default"].tensors())


@each_shape
@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base, shape):
    for init_weights in (True, "lycoris"):
        model = adapted(LoKrConfig, base, **SHAPES[shape], init_weights=init_weights)
        with model.disable_adapter():
            np.testing.assert_array_equal(logits_of(model), expected := logits_of(model))
    assert relative(logits_of(adapted(LoKrConfig, base, **SHAPES[shape], init_weights=False)), expected) > 1e-3


def test_what_it_consists_of_and_what_is_trained():
    assert names_of(adapted(LoKrConfig, **SHAPES["both whole"])) == {"lokr_w1", "lokr_w2"}
    assert names_of(adapted(LoKrConfig, r=1)) == {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}
    both = adapted(LoKrConfig, **SHAPES["both products"])
    assert names_of(both) == {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"}
    assert both.get_nb_trainable_parameters()[0] == 2 * ((4 + 4) + (4 + 4) + (4 + 4) + (4 + 6))
    # The number in the module's docstring
    wide = get_peft_model(OneLayer(768, 768), LoKrConfig(target_modules=["layer"]))
    assert wide.get_nb_trainable_parameters()[0] == 1088


@each_shape
def test_the_update_is_the_kronecker_product(shape):
    model = moved(LoKrConfig, dtype=np.float64, **SHAPES[shape])
    for _, layer in model.base_model.layers():
        adapter = layer.adapters["default"]
        first, second = (matrix.data for matrix in adapter.matrices())
        alpha, r = SHAPES[shape].get("alpha", 8), SHAPES[shape]["r"]
        expected = alpha / r * np.kron(first, second)
        np.testing.assert_allclose(adapter.delta_weight(), expected, rtol=1e-12)
        assert np.linalg.matrix_rank(expected) == np.linalg.matrix_rank(first) * np.linalg.matrix_rank(second)
        x = np.random.default_rng(0).standard_normal((2, 3, layer.in_features))
        assert relative(adapter.product(nn.Parameter(x)).data, x @ expected.T) < 1e-12


@each_shape
@each_base
def test_merging(base, shape):
    assert_merges(perturbed(adapted(LoKrConfig, base, **SHAPES[shape]), scale=0.2), 2e-5)


@pytest.mark.parametrize(("base", "shape"), [("gpt2", "a factor"), ("llama", "both products")])
def test_an_adapter_comes_back_bit_for_bit(base, shape, tmp_path):
    assert_comes_back(moved(LoKrConfig, base, **SHAPES[shape]), base, tmp_path)


@pytest.mark.parametrize(("base", "shape"), [("gpt2", "both whole"), ("llama", "both products")])
def test_gradients_by_finite_differences(base, shape):
    assert_gradients_by_differences(moved(LoKrConfig, base, np.float64, **SHAPES[shape]))


def test_training_lowers_the_loss():
    losses = losses_of_training(adapted(LoKrConfig, r=4))
    assert losses[-1] < 0.9 * losses[0]


def test_rank_dropout_divides_what_is_left_only_if_asked():
    x = np.ones((2, 16), np.float32)
    for scale in (False, True):
        options = {"rank_dropout": 0.5, "rank_dropout_scale": scale, "target_modules": ["q_proj"]}
        layer = moved(LoKrConfig, **options).train().base_model.layers()[0][1]
        whole = layer.adapters["default"].delta_weight() @ x.T
        update = (layer(x).data - layer.base_layer(x).data).T
        left = update[:, 0] != 0
        assert 0 < left.sum() < len(left)
        np.testing.assert_allclose(update[left], whole[left] / (left.mean() if scale else 1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": True}, "r must be an integer of at least 1, got True"),
        ({"r": 10**12}, "r must be at most"),
        ({"alpha": float("inf")}, "alpha must be finite"),
        ({"decompose_factor": 0}, "decompose_factor must be -1 or an integer of at least 1, got 0"),
        ({"decompose_factor": 2.0}, "decompose_factor must be -1 or an integer of at least 1, got 2.0"),
        ({"init_weights": "random"}, "init_weights must be True, False or 'lycoris', got 'random'"),
        ({"decompose_both": "yes"}, "decompose_both must be True or False"),
        ({"rank_dropout": "0.1"}, "rank_dropout must be in [0, 1), got '0.1'"),
    ],
)
def test_what_is_refused_by_the_constructor_and_in_files(options, message):
    assert message in refusal(ValueError, lambda: LoKrConfig(**options))
    assert message in refusal(ValueError, lambda: LoKrConfig.from_dict({"peft_type": "LOKR", **options}))


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        assert_fields_are_pefts(LoKrConfig)

    def test_factors(self):
        from peft.tuners.lokr.layer import factorization

        for size in range(1, 260):
            for factor in (-1, 1, 2, 3, 4, 7, 8, 12, 16, 64):
                assert two_factors(size, factor) == factorization(size, factor), (size, factor)

    @each_shape
    def test_logits_and_gradients_of_our_files_there(self, shape, tmp_path):
        assert_equal_in_peft(moved(LoKrConfig, **SHAPES[shape]), "llama", tmp_path)

    def test_in_float64(self, tmp_path):
        options = {**SHAPES["both products"], "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 5}}
        assert_equal_in_peft(moved(LoKrConfig, dtype=np.float64, **options), "llama", tmp_path, np.float64)

    @pytest.mark.parametrize("shape", ["both products", "a factor"])
    def test_their_files_here(self, shape, tmp_path):
        import peft

        config = peft.LoKrConfig(target_modules=["q_proj", "down_proj"], **SHAPES[shape], init_weights="lycoris")
        assert_read_from_peft(config, "llama", tmp_path)

    @pytest.mark.parametrize("scale", [False, True])
    def test_rank_dropout_with_the_numbers_that_are_drawn_there(self, scale, tmp_path, monkeypatch):
        ours = moved(LoKrConfig, r=4, rank_dropout=0.4, rank_dropout_scale=scale, target_modules=["q_proj"])
        assert_same_rank_dropout(ours, tmp_path, monkeypatch)
