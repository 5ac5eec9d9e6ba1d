"""LoftQ: a rounded base, and A and B that begin with what rounding did."""

import numpy as np
import pytest
from lora_helpers import assert_merges, logits_of, perturbed, refusal, relative, snapshot, tiny_llama, tiny_model
from start_helpers import MAKE, losses_of, start_config

from lora_np import LoftQConfig, PeftModel, get_peft_model, nn, replace_lora_weights_loftq
from lora_np.nn.nf4 import dequantize_nf4, quantize_nf4

each_base = pytest.mark.parametrize("base", MAKE)


def loftq_model(base="gpt2", bits=4, iterations=1, **options):
    config = start_config(
        base, init_lora_weights="loftq", loftq_config=LoftQConfig(loftq_bits=bits, loftq_iter=iterations), **options
    )
    return get_peft_model(MAKE[base](), config)


def errors(model, base):
    """{layer: how far the layer's weight and update together are from the weight before}."""
    found = {}
    for name, layer in model.base_model.layers():
        merged = layer.oriented(layer.base_layer.weight.data) + layer.adapters["default"].delta_weight()
        found[name] = relative(merged, layer.oriented(MAKE[base]().get_submodule(name).weight.data))
    return found


@each_base
@pytest.mark.parametrize("bits", [4, 8])
def test_nearer_to_the_base_than_rounding_alone_and_nearer_still_by_turns(base, bits):
    one, five = (errors(loftq_model(base, bits, iterations), base) for iterations in (1, 5))
    for name, error in one.items():
        layer = MAKE[base]().get_submodule(name)
        rounded = dequantize_nf4(quantize_nf4(layer.weight, double_quant=False))
        assert error < (0.9 if bits == 4 else 0.1) * relative(rounded, layer.weight.data)
    if bits == 4:
        assert sum(five.values()) < 0.95 * sum(one.values())


def test_one_turn_by_hand():
    model = loftq_model(lora_alpha=7)
    for name, layer in model.base_model.layers():
        W = tiny_model().get_submodule(name).weight.data
        Q = dequantize_nf4(quantize_nf4(W, double_quant=False))
        np.testing.assert_array_equal(layer.base_layer.weight.data, Q)
        U, S, V = np.linalg.svd((W - Q).T, full_matrices=False)
        np.testing.assert_allclose(layer.adapters["default"].delta_weight(), (U[:, :3] * S[:3]) @ V[:3], atol=1e-6)


def test_the_base_is_of_numbers_of_four_bits():
    model = loftq_model(iterations=3)
    for _, layer in model.base_model.layers():
        weight = layer.base_layer.weight.data
        np.testing.assert_array_equal(dequantize_nf4(quantize_nf4(weight, double_quant=False)), weight)


def test_eight_bits_have_one_scale_for_each_output():
    for _, layer in loftq_model(bits=8).base_model.layers():
        W = layer.oriented(layer.base_layer.weight.data)
        steps = W / (abs(W).max(axis=1, keepdims=True) / 127)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


@each_base
def test_the_base_comes_back(base):
    model = perturbed(loftq_model(base))
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(MAKE[base]()))
    assert_merges(loftq_model(base), 1e-5)
    assert snapshot(model.unload().requires_grad_(True)) == snapshot(MAKE[base]())


@pytest.mark.parametrize("iterations", [1, 3])
def test_files(tmp_path, iterations):
    model = perturbed(loftq_model(iterations=iterations))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    assert loaded.peft_config["default"].loftq_config == {"loftq_bits": 4, "loftq_iter": iterations}


def test_dora_begins_where_lora_does():
    assert relative(logits_of(loftq_model(use_dora=True)), logits_of(loftq_model())) < 1e-6


def test_a_short_training_run():
    losses = losses_of(loftq_model())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: loftq_model(r=17), "allows 16 at most"),
        (lambda: loftq_model(lora_alpha=0), "needs lora_alpha > 0, got 0"),
        (lambda: loftq_model(target_modules=["lm_head"]), "lm_head shares"),
        (lambda: loftq_model(target_modules=["c_attn.q"]), "parts of a projection"),
        (lambda: loftq_model().save_pretrained("nowhere", as_plain_lora=True), "goes with the rounded base"),
        (
            lambda: get_peft_model(nn.quantize_model(tiny_model()), start_config(init_lora_weights="loftq")),
            "would change a 4-bit weight",
        ),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
def test_the_decomposition_is_pefts():
    import torch
    from peft.utils.loftq_utils import _low_rank_decomposition

    model = loftq_model("llama", lora_alpha=3)  # s = 1: PEFT leaves s out
    for name, layer in model.base_model.layers():
        lost = torch.tensor(tiny_llama().get_submodule(name).weight.data - layer.base_layer.weight.data)
        theirs = _low_rank_decomposition(lost, reduced_rank=3)
        assert relative(layer.adapters["default"].delta_weight(), theirs["L"] @ theirs["R"]) < 1e-5


@pytest.mark.parametrize("split", [False, True])
class TestOnABaseInFourBits:
    def model(self, tmp_path, split):
        tiny_model().save_pretrained(tmp_path, **({"max_shard_size": 4000} if split else {}))
        return get_peft_model(nn.quantize_model(tiny_model()), start_config(r=6))

    def test_it_comes_nearer_to_the_model_before_rounding(self, tmp_path, split):
        model = self.model(tmp_path, split)
        before = relative(logits_of(model), logits_of(tiny_model()))
        replace_lora_weights_loftq(model, tmp_path)
        assert relative(logits_of(model), logits_of(tiny_model())) < 0.8 * before
        for name, layer in model.base_model.layers():
            lost = (tiny_model().get_submodule(name).weight.data - layer.base_layer.weight.data).T
            left = lost - layer.adapters["default"].delta_weight()
            np.testing.assert_allclose(np.linalg.norm(left, 2), np.linalg.svd(lost)[1][6], rtol=1e-3)

    def test_a_callback_may_refuse(self, tmp_path, split):
        model, asked = self.model(tmp_path, split), []
        before = snapshot(model)

        def callback(given, name):
            assert given is model
            asked.append(name)
            return len(asked) == 1

        replace_lora_weights_loftq(model, tmp_path, callback=callback)
        changed = {line for line, bits in snapshot(model).items() if before[line] != bits}
        assert changed == {f"base_model.model.{asked[0]}.lora_{letter}.default.weight" for letter in "AB"}

    def test_an_error_half_way_changes_nothing(self, tmp_path, split):
        model = self.model(tmp_path, split)
        before = snapshot(model)
        with pytest.raises(ZeroDivisionError):
            replace_lora_weights_loftq(model, tmp_path, callback=lambda *_: 1 / 0)
        other = tmp_path / "other"
        tiny_model(n_embd=32).save_pretrained(other)
        with pytest.raises(ValueError, match="of another model"):
            replace_lora_weights_loftq(model, other / "model.safetensors")
        assert snapshot(model) == before


@pytest.mark.parametrize("options", [{"use_dora": True}, {"target_modules": ["c_attn.q"]}, {"lora_alpha": -1}], ids=str)
def test_what_is_not_plain_lora_is_refused(options):
    model = get_peft_model(nn.quantize_model(tiny_model()), start_config(**options))
    assert "LoftQ is for plain LoRA" in refusal(ValueError, lambda: replace_lora_weights_loftq(model, "x"))


def test_a_base_that_is_not_in_four_bits_is_refused():
    model = get_peft_model(tiny_model(), start_config())
    assert "is in 4 bits" in refusal(ValueError, lambda: replace_lora_weights_loftq(model, "x"))
