"""MiSS: one small matrix that all shards of a weight share, and its variants "mini" and "bat"."""

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
    peft_reads,
    quietly,
    their_logits,
)
from lora_helpers import assert_merges, logits_of, perturbed, refusal, relative, some_ids, tiny_llama, tiny_model

from lora_np import PeftModel, get_peft_model, nn
from lora_np.lora import MissConfig
from lora_np.storage import read_json, write_json

TARGETS = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "down_proj"]}
VARIANTS = {  # by init_weights; 5 divides neither 16 nor 24 inputs
    True: {"r": 5},
    "mini": {"r": 5, "init_weights": "mini", "mini_r": 4},
    "bat": {"r": 4, "init_weights": "bat"},
}
each_base = pytest.mark.parametrize("base", TARGETS)
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def config(variant=True, base="llama", **options):
    return MissConfig(**{"target_modules": TARGETS[base], **VARIANTS[variant], **options})


@each_base
@each_variant
def test_training_starts_at_the_base_model_bit_for_bit(variant, base):
    assert_starts_at_the_base(config(variant, base), base)


@pytest.mark.parametrize("init_weights", [False, None])
def test_without_init_weights_it_does_not(init_weights):
    model = new(config(init_weights=init_weights), "llama")
    assert relative(logits_of(model), logits_of(tiny_llama())) > 1e-2


@pytest.mark.parametrize(
    ("variant", "numbers"), [(True, 2 * 5 * (16 + 16)), ("mini", 2 * 5 * (4 + 4)), ("bat", 2 * 4 * (16 + 16))]
)
def test_how_much_is_trained(variant, numbers):
    assert get_peft_model(tiny_llama(), config(variant)).get_nb_trainable_parameters()[0] == numbers


@pytest.mark.parametrize(("variant", "rank"), [(True, 5), ("mini", 4), ("bat", 16)])
def test_the_rank_of_the_update(variant, rank):
    for _, layer in adapted(config(variant), "llama").base_model.layers():
        assert np.linalg.matrix_rank(layer.get_delta_weight("default"), tol=1e-4) == rank


@each_base
@each_variant
def test_merging(variant, base):
    assert_merges(adapted(config(variant, base), base, np.float64, scale=0.1), 1e-12)


def test_merging_in_float32():
    assert_merges(adapted(config(), "llama"), 1e-5)


@each_variant
def test_an_adapter_comes_back_bit_for_bit(variant, tmp_path):
    assert_comes_back(adapted(config(variant, "gpt2", bias="MiSS_only"), "gpt2"), "gpt2", tmp_path)


@each_variant
def test_beside_four_bits(variant):
    model = perturbed(get_peft_model(nn.quantize_model(tiny_llama()), config(variant)))
    with model.disable_adapter():
        base = logits_of(model)
    assert relative(logits_of(model), base) > 1e-3


@each_variant
def test_two_adapters(variant):
    assert_switched(config(variant), "llama")


@each_variant
def test_gradients_beside_conv1d(variant):
    """Which PEFT has not."""
    assert_gradients_are_slopes(adapted(config(variant, "gpt2"), "gpt2", np.float64, scale=0.1))


@each_variant
def test_the_loss_falls(variant):
    assert_loss_falls(new(config(variant), "llama"), lr=3e-2)


@each_variant
def test_dropout_is_on_the_input_in_training_only(variant):
    model = adapted(config(variant, miss_dropout=0.5), "llama")
    assert relative(logits_of(model), logits_of(adapted(config(variant), "llama"))) == 0
    assert relative(logits_of(model.train()), logits_of(model)) > 1e-3


WRONG = [
    ({"r": 0}, "r must be an integer of at least 1"),
    ({"mini_r": -1}, "mini_r must be an integer of at least 1"),
    ({"miss_dropout": "0.1"}, "miss_dropout must be in [0, 1)"),
    ({"init_weights": "bone"}, "init_weights must be one of True, False, 'bat', 'mini', got 'bone'"),
    ({"init_weights": 1}, "init_weights must be one of"),
    ({"bias": "lora_only"}, "'miss_only'"),
    ({"layers_to_transform": "0"}, "layers_to_transform must be"),
    ({"r": 25}, "r = 25 is more than the 16 inputs of model.layers.0.self_attn.q_proj"),
    ({"r": 5, "init_weights": "bat"}, "into blocks of (5, 5): r must divide both"),
    ({"init_weights": "mini", "mini_r": 5}, "into shards of mini_r = 5, which must divide them"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_settings_are_refused_by_name(options, message, tmp_path):
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_llama(), config(**options)))
    adapted(config(), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), **options})
    assert f"{file}: " in (found := refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path)))
    assert message in found


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

        assert_fields_are_peft_s(MissConfig, peft.MissConfig)

    @pytest.mark.parametrize(
        ("variant", "dtype"), [(True, np.float32), (True, np.float64), ("mini", np.float64), ("bat", np.float64)]
    )
    def test_our_files_there(self, variant, dtype, tmp_path):
        ours = adapted(config(variant, miss_dropout=0.1), "llama", dtype)
        assert_peft_computes_the_same(ours, "llama", tmp_path, dtype)

    @pytest.mark.parametrize("init_weights", [True, False, "mini", "bat"])
    def test_their_files_here(self, init_weights, tmp_path):
        settings = config(init_weights or True, init_weights=init_weights, layers_to_transform=[1])
        assert_reads_peft(settings, "llama", tmp_path)

    @pytest.mark.parametrize("variant", [True, "mini"])
    def test_two_adapters(self, variant, tmp_path):
        assert_two_are_peft_s([config(variant), config(variant, r=3)], "llama", tmp_path)

    @each_variant
    def test_what_merging_makes(self, variant, tmp_path):
        ours = adapted(config(variant), "llama")
        ours.save_pretrained(tmp_path)
        theirs = quietly(lambda: peft_reads(tmp_path, "llama").merge_and_unload())
        ids = some_ids(ours.config)
        assert relative(logits_of(ours.merge_and_unload()), their_logits(theirs, ids)) < 2e-5
