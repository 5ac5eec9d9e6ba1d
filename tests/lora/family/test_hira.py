"""HiRA: each weight times one plus a number from a matrix of low rank."""

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
from lora_helpers import (
    assert_merges,
    hugging_face_twin,
    logits_of,
    perturbed,
    refusal,
    relative,
    tiny_llama,
    tiny_model,
)

from lora_np import PeftModel, get_peft_model, nn
from lora_np.lora import HiraConfig

EMBEDDINGS = {"gpt2": ["wte", "c_attn"], "llama": ["embed_tokens", "q_proj"]}
each_base = pytest.mark.parametrize("base", ["gpt2", "llama"])


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    for options in ({}, {"init_weights": "gaussian"}, {"target_modules": EMBEDDINGS[base]}):
        model = adapted(HiraConfig, base, **options)
        with model.disable_adapter():
            np.testing.assert_array_equal(logits_of(model), expected := logits_of(model))
    assert relative(logits_of(adapted(HiraConfig, base, init_weights=False)), expected) > 1e-2


def test_the_initial_a_has_the_deviation_that_its_setting_says():
    def first(init_weights):
        config = HiraConfig(r=50, target_modules=["layer"], init_weights=init_weights)
        return get_peft_model(OneLayer(400, 300), config).base_model.layers()[0][1].hira_A["default"].data

    assert np.abs(first(True)).max() <= 400**-0.5
    assert first(True).std() == pytest.approx((1 / 400 / 3) ** 0.5, rel=0.02)
    assert first("Gaussian").std() == pytest.approx(1 / 50, rel=0.02)


def test_what_is_trained_and_the_rank_of_the_update():
    model = moved(HiraConfig, r=2)
    assert model.get_nb_trainable_parameters()[0] == 2 * 2 * (16 + 16 + 24 + 16)
    layer = model.base_model.layers()[0][1]
    A, B = layer.matrices("default")
    delta = layer.get_delta_weight("default")
    np.testing.assert_allclose(delta, layer.weight.data * (B.data @ A.data), rtol=1e-6)
    assert np.linalg.matrix_rank(delta) == 16  # W's, where B A has 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(moved(HiraConfig, base, dtype, r=3), tolerance)


def test_merging_an_embedding():
    model = get_peft_model(tiny_llama(tie_word_embeddings=False), HiraConfig(r=3, target_modules=EMBEDDINGS["llama"]))
    assert_merges(perturbed(model, scale=0.3), 1e-5)


def test_several_adapters_multiply_the_one_frozen_weight():
    model = moved(HiraConfig, r=3)
    model.add_adapter("other", HiraConfig(r=2, target_modules=["q_proj"], init_weights=False))
    model.set_adapter(["default", "other"])
    expected = logits_of(model)
    model.set_adapter(["other", "default"])
    assert relative(logits_of(model), expected) < 1e-6
    model.merge_adapter()
    assert relative(logits_of(model), expected) < 1e-5


def test_beside_a_layer_in_four_bits():
    base = tiny_llama(hidden_size=64, intermediate_size=64)
    nn.quantize_model(base)
    model = perturbed(get_peft_model(base, HiraConfig(r=3, target_modules=["q_proj"])), scale=0.3)
    layer = model.base_model.layers()[0][1]
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    expected = layer.base_layer(x).data + x @ layer.adapters["default"].delta_weight().T
    assert relative(layer(x).data, expected) < 1e-6


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    first = EMBEDDINGS[base][1]
    assert_comes_back(moved(HiraConfig, base, rank_pattern={rf"0\..*{first}": 2}), base, tmp_path / "linear")
    assert_comes_back(moved(HiraConfig, base, target_modules=EMBEDDINGS[base]), base, tmp_path / "embedding")


@each_base
def test_gradients_by_finite_differences(base):
    assert_gradients_by_differences(moved(HiraConfig, base, np.float64, r=2))


def test_training_lowers_the_loss():
    losses = losses_of_training(adapted(HiraConfig, r=8, hira_dropout=0.1))
    assert losses[-1] < 0.9 * losses[0]


def test_the_pattern_says_the_rank_of_a_layer():
    model = adapted(HiraConfig, r=4, rank_pattern={"q_proj": 2})
    assert [layer.adapters["default"].r for _, layer in model.base_model.layers()] == [2, 4, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": -1}, "r must be an integer of at least 1, got -1"),
        ({"hira_dropout": 1}, "hira_dropout must be in [0, 1), got 1"),
        ({"init_weights": "orthogonal"}, "init_weights must be True, False or 'gaussian', got 'orthogonal'"),
        ({"init_weights": 1}, "init_weights must be True, False or 'gaussian', got 1"),
        ({"rank_pattern": {"q": 1.5}}, "rank_pattern['q'] must be an integer"),
        ({"rank_pattern": ["q"]}, "rank_pattern must be a dict"),
        ({"target_modules": "a|b", "layers_to_transform": 1}, "layers_to_transform goes with a list"),
    ],
)
def test_what_is_refused_by_the_constructor_and_in_files(options, message):
    assert message in refusal(ValueError, lambda: HiraConfig(**options))
    assert message in refusal(ValueError, lambda: HiraConfig.from_dict({"peft_type": "HIRA", **options}))


def test_it_has_no_scaling_and_takes_whole_layers():
    assert "no scaling" in refusal(ValueError, lambda: moved(HiraConfig).set_scale("default", 2))
    config = HiraConfig(target_modules=["c_attn.v"])
    assert "HIRA adapts whole layers" in refusal(ValueError, lambda: get_peft_model(tiny_model(), config))


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        assert_fields_are_pefts(HiraConfig)

    @each_base
    def test_logits_and_gradients_of_our_files_there(self, base, tmp_path):
        assert_equal_in_peft(moved(HiraConfig, base, r=4), base, tmp_path)

    @each_base
    def test_in_float64(self, base, tmp_path):
        assert_equal_in_peft(moved(HiraConfig, base, np.float64, r=3), base, tmp_path, np.float64)

    def test_beside_an_embedding(self, tmp_path):
        model = moved(HiraConfig, "llama", r=3, target_modules=EMBEDDINGS["llama"])
        assert_equal_in_peft(model, "llama", tmp_path)

    @each_base
    def test_their_files_here(self, base, tmp_path):
        import peft

        targets = {"gpt2": ["wte", "c_attn", "mlp.c_proj"], "llama": ["embed_tokens", "down_proj"]}[base]
        config = peft.HiraConfig(r=3, target_modules=targets, init_weights=False, fan_in_fan_out=base == "gpt2")
        ours = assert_read_from_peft(config, base, tmp_path)
        assert {type(layer.base_layer) for _, layer in ours.base_model.layers()} >= {nn.Embedding}

    @each_base
    def test_a_rank_pattern_that_pefts_file_names_and_does_not_hold(self, base, tmp_path):
        import peft

        options = {"target_modules": EMBEDDINGS[base], "fan_in_fan_out": base == "gpt2"}
        config = peft.HiraConfig(r=3, rank_pattern={EMBEDDINGS[base][1]: 2}, init_weights=False, **options)
        theirs = peft.get_peft_model(hugging_face_twin(BASES[base][0]()), config).eval()
        theirs.save_pretrained(tmp_path)
        ours = PeftModel.from_pretrained(BASES[base][0](), tmp_path)
        assert relative(logits_of(ours), logits_of(theirs.base_model.model)) < 2e-5
        ours.save_pretrained(tmp_path / "again")
        again = PeftModel.from_pretrained(BASES[base][0](), tmp_path / "again")
        np.testing.assert_array_equal(logits_of(again), logits_of(ours))
