"""DeLoRA: an update whose strength is one trained number, and bounded."""

import numpy as np
import pytest
from family_checks import (
    adapted,
    assert_comes_back,
    assert_fields_are_peft_s,
    assert_gradients_are_slopes,
    assert_loss_falls,
    assert_peft_computes_the_same,
    assert_reads_peft,
    assert_starts_at_the_base,
    assert_switched,
    assert_two_are_peft_s,
    new,
)
from lora_helpers import assert_merges, logits_of, perturbed, refusal, relative, tiny_llama, tiny_model

from lora_np import PeftModel, get_peft_model, nn
from lora_np.lora import DeloraConfig
from lora_np.storage import read_json, write_json

TARGETS = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "down_proj"]}
each_base = pytest.mark.parametrize("base", TARGETS)


def config(base="llama", **options):
    return DeloraConfig(**{"r": 3, "target_modules": TARGETS[base], **options})


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    assert_starts_at_the_base(config(base), base)


def test_without_init_weights_it_does_not():
    model = new(config(init_weights=False), "llama")
    assert relative(logits_of(model), logits_of(tiny_llama())) > 1e-2


def test_what_is_trained():
    model = get_peft_model(tiny_llama(), config())
    assert model.get_nb_trainable_parameters()[0] == 2 * (3 * (16 + 16) + 1 + 3 * (24 + 16) + 1)
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {
        "delora_A",
        "delora_B",
        "delora_lambda",
    }


@each_base
def test_the_update_is_bounded_and_measured_by_the_columns_of_the_weight(base):
    """With huge A and B, and each of W's columns taken out, what is left is not longer than λ, nor of higher rank."""
    model = perturbed(new(config(base, delora_lambda=2), base), scale=1e4)
    for _, layer in model.base_model.layers():
        lengths = np.linalg.norm(layer.oriented(layer.weight.data), axis=0)
        adapter = layer.adapters["default"]
        adapter.delora_lambda.data[:] = 2
        update = adapter.delta_weight() / lengths
        assert np.linalg.norm(update) <= 2 * (1 + 1e-5)
        assert np.linalg.matrix_rank(update) == 3


def test_patterns_give_layers_a_rank_and_a_strength_of_their_own():
    model = get_peft_model(
        tiny_llama(), config(rank_pattern={"down_proj": 5}, lambda_pattern={r"layers\.1\.self_attn\.q_proj": 7})
    )
    layers = {name.removeprefix("model.layers."): layer for name, layer in model.base_model.layers()}
    found = {name: (layer.r["default"], layer.delora_lambda["default"].item()) for name, layer in layers.items()}
    assert found == {
        "0.self_attn.q_proj": (3, 15),
        "0.mlp.down_proj": (5, 15),
        "1.self_attn.q_proj": (3, 7),
        "1.mlp.down_proj": (5, 15),
    }
    with pytest.warns(UserWarning, match="lambda_pattern has entries that match no adapted layer: nothing"):
        get_peft_model(tiny_llama(), config(lambda_pattern={"nothing": 2}))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(adapted(config(base), base, dtype), tolerance)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    assert_comes_back(adapted(config(base, bias="delora_only"), base), base, tmp_path)


def test_the_lengths_are_those_of_the_model_that_it_was_made_on(tmp_path):
    """As in PEFT the file has them, so that another base does not change them."""
    model = adapted(config(), "llama")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(seed=8), tmp_path)
    for (_, one), (_, other) in zip(model.base_model.layers(), loaded.base_model.layers(), strict=True):
        np.testing.assert_array_equal(one.get_delta_weight("default"), other.get_delta_weight("default"))


def test_beside_four_bits():
    model = perturbed(get_peft_model(nn.quantize_model(tiny_llama()), config()))
    with model.disable_adapter():
        base = logits_of(model)
    assert relative(logits_of(model), base) > 1e-3


def test_two_adapters():
    assert_switched(config(), "llama")


@each_base
def test_gradients(base):
    assert_gradients_are_slopes(adapted(config(base), base, np.float64))


def test_a_zero_b_has_a_gradient_and_no_row_of_zeros_gives_a_nan():
    model = get_peft_model(tiny_llama().to(dtype=np.float64), config())
    for _, layer in model.base_model.layers():
        layer.adapters["default"].delora_A.data[0] = 0
    model(np.arange(5)[None], labels=np.arange(5)[None]).loss.backward()
    for _, layer in model.base_model.layers():
        adapter = layer.adapters["default"]
        assert np.isfinite(adapter.delora_A.grad).all()
        assert np.abs(adapter.delora_B.grad[:, 1:]).min() > 0


@each_base
def test_the_loss_falls(base):
    assert_loss_falls(new(config(base), base))


def test_dropout_is_on_the_input_in_training_only():
    model = adapted(config(module_dropout=0.5), "llama")
    assert relative(logits_of(model), logits_of(adapted(config(), "llama"))) == 0
    assert relative(logits_of(model.train()), logits_of(model)) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1"),
        ({"r": 2.0}, "r must be an integer of at least 1"),
        ({"delora_lambda": "15"}, "delora_lambda must be a number"),
        ({"delora_lambda": float("nan")}, "delora_lambda must be finite"),
        ({"module_dropout": 1.0}, "module_dropout must be in [0, 1)"),
        ({"init_weights": "olora"}, "init_weights must be True or False"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern['q_proj'] must be an integer of at least 1"),
        ({"rank_pattern": [1]}, "rank_pattern must be a dict"),
        ({"lambda_pattern": {"q_proj": None}}, "lambda_pattern['q_proj'] must be a number"),
        ({"bias": "lora_only"}, "'delora_only'"),
        ({"exclude_modules": 3}, "exclude_modules must be a list of names"),
    ],
)
def test_wrong_settings_are_refused_by_name(options, message, tmp_path):
    assert message in refusal(ValueError, lambda: config(**options))
    adapted(config(), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), **{k: "NaN" if v != v else v for k, v in options.items()}})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert str(file) in found
    assert next(iter(options)) in found


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target_modules": ["wte"]}, "wte is an Embedding"), ({"target_modules": ["c_attn.q"]}, "adapts whole layers")],
)
def test_layers_that_it_does_not_adapt(options, message):
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_model(), config(**options)))


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        import peft

        assert_fields_are_peft_s(DeloraConfig, peft.DeloraConfig)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_our_files_there(self, dtype, tmp_path):
        ours = adapted(config(rank_pattern={"down_proj": 2}, module_dropout=0.1), "llama", dtype)
        assert_peft_computes_the_same(ours, "llama", tmp_path, dtype)

    def test_the_first_gradients_from_a_zero_b(self, tmp_path):
        assert_peft_computes_the_same(new(config(), "llama"), "llama", tmp_path)

    @pytest.mark.parametrize("init_weights", [True, False])
    def test_their_files_here(self, init_weights, tmp_path):
        settings = config(init_weights=init_weights, lambda_pattern={"q_proj": 3}, exclude_modules=["1.mlp.down_proj"])
        assert_reads_peft(settings, "llama", tmp_path)

    def test_two_adapters(self, tmp_path):
        assert_two_are_peft_s([config(), config(r=2, delora_lambda=4)], "llama", tmp_path)
