"""TinyLoRA: a few numbers, shared by layers, mix directions that the weights have."""

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
from lora_np.lora import TinyLoraConfig, inject_adapter_in_model
from lora_np.storage import read_json, write_json

TARGETS = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "llama": ["q_proj", "down_proj"],
    "embedding": ["embed_tokens", "q_proj"],
}
each_base = pytest.mark.parametrize("base", ["gpt2", "llama", "embedding"])


def config(base="llama", **options):
    options = {"r": 3, "u": 5, "weight_tying": 0.5, "fan_in_fan_out": base == "gpt2", **options}
    return TinyLoraConfig(target_modules=options.pop("target_modules", TARGETS[base]), **options)


def of(base):
    """The name of the model that a case is about."""
    return "gpt2" if base == "gpt2" else "llama"


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    assert_starts_at_the_base(config(base), of(base))


@pytest.mark.parametrize("init_weights", ["uniform", False])
def test_v_may_begin_in_a_bound(init_weights):
    model = new(config(init_weights=init_weights, init_v_bound=0.5, u=200), "llama")
    v = np.concatenate([p.data for _, p in model.base_model.named_parameters() if p.requires_grad])
    assert 0.45 < np.abs(v).max() <= 0.5
    assert np.abs(v).min() < 0.05


@pytest.mark.parametrize(
    ("weight_tying", "groups"), [(0, "0123"), (0.25, "0122"), (0.4, "0011"), (0.75, "0000"), (1.0, "0000")]
)
def test_layers_that_follow_one_another_share_a_vector(weight_tying, groups):
    model = get_peft_model(tiny_llama(), config(weight_tying=weight_tying))
    assert "".join(layer.group["default"] for _, layer in model.base_model.layers()) == groups
    assert model.get_nb_trainable_parameters()[0] == 5 * len(set(groups))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == [f"base_model.tinylora_v.default.{i}" for i in sorted(set(groups))]


@each_base
def test_the_update_lies_in_the_main_directions_of_the_weight(base):
    for _, layer in adapted(config(base), of(base)).base_model.layers():
        U, S, Vt = np.linalg.svd(np.asarray(layer.weight.data, np.float64), full_matrices=False)
        main = (U[:, :3] * S[:3]) @ Vt[:3]
        found = layer.tinylora_B["default"].data @ layer.tinylora_A["default"].data
        assert relative(found.T if base == "gpt2" else found, main) < 1e-5
        update = layer.get_delta_weight("default")
        assert relative(U[:, :3] @ U[:, :3].T @ update @ Vt[:3].T @ Vt[:3], update) < 1e-5
        assert np.linalg.matrix_rank(update) == 3


def test_a_rank_above_that_of_a_weight_is_that_of_the_weight():
    model = adapted(config(r=40), "llama")
    assert {layer.r["default"] for _, layer in model.base_model.layers()} == {16}


def test_p_follows_from_the_seed_and_the_place():
    one, again, other = (
        {n: b.data for n, b in get_peft_model(tiny_llama(), config(projection_seed=s)).named_buffers() if "_P." in n}
        for s in (7, 7, 8)
    )
    names = list(one)
    for name in names:
        np.testing.assert_array_equal(one[name], again[name])
        assert (one[name] != other[name]).all()
    assert (one[names[0]] != one[names[1]]).all()
    assert 0.3 < np.mean([p.std() for p in one.values()]) < 0.9  # about 1/√3


@each_base
def test_merging(base):
    model = adapted(config(base), of(base), np.float64)
    model.untie_weights()
    assert_merges(model, 1e-12)


def test_merging_in_float32():
    assert_merges(adapted(config(), "llama"), 1e-5)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    assert_comes_back(adapted(config(base, projection_seed=7), of(base)), of(base), tmp_path)


def test_beside_four_bits():
    model = perturbed(get_peft_model(nn.quantize_model(tiny_llama()), config()))
    with model.disable_adapter():
        base = logits_of(model)
    assert relative(logits_of(model), base) > 1e-3


def test_two_adapters():
    model = adapted(config("embedding"), "llama")
    model.untie_weights()
    assert_switched(config("embedding"), "llama", model)


@each_base
def test_gradients(base):
    assert_gradients_are_slopes(adapted(config(base), of(base), np.float64))


@pytest.mark.parametrize("base", ["gpt2", "embedding"])
def test_the_loss_falls(base):
    assert_loss_falls(new(config(base, u=20), of(base)), lr=0.1)


def test_dropout_is_on_the_input_in_training_only():
    for base in ("llama", "embedding"):
        model = adapted(config(base, tinylora_dropout=0.5), "llama")
        assert relative(logits_of(model), logits_of(adapted(config(base), "llama"))) == 0
        assert relative(logits_of(model.train()), logits_of(model)) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1"),
        ({"u": -2}, "u must be an integer of at least 1"),
        ({"weight_tying": 1.5}, "weight_tying must be from 0 to 1, got 1.5"),
        ({"weight_tying": "all"}, "weight_tying must be a number"),
        ({"projection_seed": -1}, "projection_seed must be an integer of at least 0"),
        ({"save_projection": False}, "save_projection=False: P must be saved"),
        ({"init_v_bound": None}, "init_v_bound must be a number"),
        ({"init_weights": "zeros"}, "init_weights must be True, False or 'uniform'"),
        ({"tinylora_dropout": -0.1}, "tinylora_dropout must be in [0, 1)"),
        ({"bias": "lora_only"}, "'tinylora_only'"),
    ],
)
def test_wrong_settings_are_refused_by_name(options, message, tmp_path):
    assert message in refusal(ValueError, lambda: config(**options))
    adapted(config(), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), **options})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert found.startswith(f"{file}: ")
    assert message in found


def test_sizes_that_no_memory_holds(tmp_path):
    adapted(config(), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), "u": 2**31 - 1, "r": 2**31 - 1})
    assert str(tmp_path) in refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))


def test_parts_of_a_projection_are_refused():
    action = lambda: get_peft_model(tiny_model(), config(target_modules=["c_attn.q"]))  # noqa: E731
    assert "adapts whole layers" in refusal(ValueError, action)


def test_without_a_peft_model_there_is_no_place_for_what_is_shared():
    found = refusal(ValueError, lambda: inject_adapter_in_model(config(), tiny_llama()))
    assert "train tensors together" in found


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        import peft

        assert_fields_are_peft_s(TinyLoraConfig, peft.TinyLoraConfig)

    @pytest.mark.parametrize(
        ("base", "dtype"),
        [("gpt2", np.float32), ("gpt2", np.float64), ("llama", np.float32), ("embedding", np.float64)],
    )
    def test_our_files_there(self, base, dtype, tmp_path):
        ours = adapted(config(base, tinylora_dropout=0.1), of(base), dtype)
        assert_peft_computes_the_same(ours, of(base), tmp_path, dtype)

    @pytest.mark.parametrize(
        ("base", "options"),
        [
            ("gpt2", {"weight_tying": 0.3}),
            ("llama", {"weight_tying": 0.3, "u": 2}),
            ("embedding", {"init_weights": "uniform", "r": 20}),
        ],
    )
    def test_their_files_here(self, base, options, tmp_path):
        assert_reads_peft(config(base, **options), of(base), tmp_path)

    def test_two_adapters(self, tmp_path):
        assert_two_are_peft_s([config("gpt2"), config("gpt2", r=2, u=9, weight_tying=1.0)], "gpt2", tmp_path)
