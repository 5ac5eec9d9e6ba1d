"""LoHa: the Hadamard product of two matrices of low rank."""

import numpy as np
import pytest
from family_twins import (
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
from lora_helpers import assert_merges, logits_of, refusal, relative, snapshot, tiny_llama

from lora_np import PeftModel, get_peft_model
from lora_np.lora import LoHaConfig

each_base = pytest.mark.parametrize("base", ["gpt2", "llama"])


def first_adapter(model):
    return model.base_model.layers()[0][1].adapters["default"]


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = adapted(LoHaConfig, base)
    with model.disable_adapter():
        expected = logits_of(model)
    np.testing.assert_array_equal(logits_of(model), expected)
    assert relative(logits_of(adapted(LoHaConfig, base, init_weights=False)), expected) > 1e-4


def test_what_is_trained_and_the_rank_of_the_update():
    model = moved(LoHaConfig, r=3)
    assert model.get_nb_trainable_parameters()[0] == 2 * 2 * 3 * (16 + 16 + 24 + 16)
    delta = first_adapter(model).delta_weight()
    assert np.linalg.matrix_rank(delta, tol=1e-4) == 3 * 3


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(moved(LoHaConfig, base, dtype, r=3), tolerance)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    first = {"gpt2": "c_attn", "llama": "q_proj"}[base]
    model = moved(LoHaConfig, base, rank_pattern={first: 2}, alpha_pattern={rf"0\..*{first}": 3})
    assert_comes_back(model, base, tmp_path)


@each_base
def test_gradients_by_finite_differences(base):
    assert_gradients_by_differences(moved(LoHaConfig, base, np.float64, r=2))


def test_training_lowers_the_loss():
    losses = losses_of_training(adapted(LoHaConfig, r=4))
    assert losses[-1] < 0.9 * losses[0]


def test_patterns_say_rank_and_scaling_of_a_layer():
    model = adapted(LoHaConfig, r=4, alpha=2, rank_pattern={"q_proj": 2}, alpha_pattern={r"layers\.1.*q_proj": 5})
    found = {name: (a.adapters["default"].r, a.scaling["default"]) for name, a in model.base_model.layers()}
    assert found["model.layers.0.self_attn.q_proj"] == (2, 1.0)
    assert found["model.layers.1.self_attn.q_proj"] == (2, 2.5)
    assert found["model.layers.1.mlp.down_proj"] == (4, 0.5)


def test_scaling_several_adapters_and_switching_off():
    model = moved(LoHaConfig, r=3)
    expected, base = logits_of(model), logits_of(tiny_llama())
    before = first_adapter(model).delta_weight()
    model.set_scale("default", 0.5)
    np.testing.assert_allclose(first_adapter(model).delta_weight(), before / 2, rtol=1e-6)
    model.set_scale("default", 1.0)
    model.add_adapter("other", LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False))
    model.set_adapter("other")
    assert relative(logits_of(model), expected) > 1e-3
    model.set_adapter(["default", "other"])
    both = logits_of(model)
    model.merge_adapter()
    assert relative(logits_of(model), both) < 1e-5
    model.unmerge_adapter()
    model.delete_adapter("other")
    np.testing.assert_array_equal(logits_of(model), expected)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), base)


def test_rank_dropout_leaves_out_outputs_and_module_dropout_the_layer():
    model = moved(LoHaConfig, rank_dropout=0.5, target_modules=["q_proj"])
    layer = model.base_model.layers()[0][1]
    adapter, x = layer.adapters["default"], np.ones((2, 16), np.float32)
    whole = adapter.delta_weight() @ x.T
    updates = [layer(x).data - layer.base_layer(x).data for _ in range(3)]
    assert all(relative(u.T, whole) < 1e-5 for u in updates)  # in evaluation
    model.train()
    for _ in range(3):
        update = (layer(x).data - layer.base_layer(x).data).T
        left = update[:, 0] != 0
        assert 0 < left.sum() < len(left)
        np.testing.assert_allclose(update[left], whole[left] / left.mean(), rtol=1e-3)
    model = moved(LoHaConfig, module_dropout=0.5, target_modules=["q_proj"]).train()
    layer = model.base_model.layers()[0][1]
    found = [np.array_equal(layer(x).data, layer.base_layer(x).data) for _ in range(40)]
    assert 5 < sum(found) < 35


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1, got 0"),
        ({"alpha": "4"}, "alpha must be a number, got '4'"),
        ({"rank_dropout": 1.0}, "rank_dropout must be in [0, 1), got 1.0"),
        ({"module_dropout": -0.1}, "module_dropout must be in [0, 1), got -0.1"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern['q'] must be an integer of at least 1, got 0"),
        ({"alpha_pattern": {"q": None}}, "alpha_pattern['q'] must be a number"),
        ({"init_weights": "gaussian"}, "init_weights must be True or False"),
        ({"use_effective_conv2d": 1}, "use_effective_conv2d must be True or False"),
        ({"layers_pattern": "h"}, "layers_pattern says where block numbers stand"),
        ({"exclude_modules": ["a("]}, "exclude_modules has 'a('"),
    ],
)
def test_what_is_refused_by_the_constructor_and_in_files(options, message):
    assert message in refusal(ValueError, lambda: LoHaConfig(**options))
    fields = {"peft_type": "LOHA", **options}
    assert message in refusal(ValueError, lambda: LoHaConfig.from_dict(fields, "file.json"))


def test_layers_that_it_does_not_adapt():
    config = LoHaConfig(target_modules=["embed_tokens"])
    model = tiny_llama()
    before = snapshot(model)
    assert "embed_tokens is an Embedding" in refusal(ValueError, lambda: get_peft_model(model, config))
    assert snapshot(model) == before
    part = "LOHA adapts whole layers: name them whole in target_modules, not as transformer.h.0.attn.c_attn.q"
    assert part in refusal(ValueError, lambda: adapted(LoHaConfig, "gpt2", target_modules=["c_attn.q"]))


def test_nothing_is_said_about_a_field_that_it_does_not_have(recwarn):
    adapted(LoHaConfig, "gpt2")
    assert not recwarn.list


def test_a_file_whose_layers_do_nothing_is_noticed(tmp_path):
    adapted(LoHaConfig).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="all zero"):
        PeftModel.from_pretrained(tiny_llama(), tmp_path)


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        assert_fields_are_pefts(LoHaConfig)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_logits_and_gradients_of_our_files_there(self, dtype, tmp_path):
        options = {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 5}}  # PEFT's s is a float32
        assert_equal_in_peft(moved(LoHaConfig, dtype=dtype, **options), "llama", tmp_path, dtype)

    def test_their_files_here(self, tmp_path):
        import peft

        config = peft.LoHaConfig(r=3, target_modules=["q_proj", "down_proj"], init_weights=False, rank_dropout=0.1)
        assert_read_from_peft(config, "llama", tmp_path)

    def test_rank_dropout_with_the_numbers_that_are_drawn_there(self, tmp_path, monkeypatch):
        ours = moved(LoHaConfig, r=4, rank_dropout=0.4, target_modules=["q_proj"])
        assert_same_rank_dropout(ours, tmp_path, monkeypatch)
