"""lora_bias: the low-rank branch has a bias of its own, as in PEFT."""

import numpy as np
import pytest
from lora_helpers import (
    TwoLayers,
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_merges,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, Tensor, gradcheck, nn

TARGETS = {"c_attn": ["c_attn"], "two": ["c_attn", "mlp.c_proj"], "all-linear": "all-linear"}


def bias_config(targets=("c_attn",), **options):
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": True, **options}
    targets = targets if isinstance(targets, str) else list(targets)
    return LoraConfig(target_modules=targets, lora_bias=True, **options)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated", "ignore:.*have invalid shape")
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"bias": "all"}, {"bias": "lora_only"}], ids=str)
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
class TestAgainstPeft:
    def test_names_logits_loss_and_gradients(self, targets, options):
        assert_equal_to_peft(bias_config(targets, **options), tiny_model())

    def test_files(self, targets, options, tmp_path):
        layout = assert_exchanged_with_peft(bias_config(targets, **options), tiny_model(), tmp_path)
        assert layout["base_model.model.transformer.h.0.attn.c_attn.lora_B.bias"] == (48,)


def test_it_starts_at_the_base_model_bit_for_bit():
    model = peft_model("all-linear", lora_bias=True, init_lora_weights=True)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_merging(targets, dtype, tolerance):
    assert_merges(perturbed(peft_model(targets, tiny_model().to(dtype=dtype), lora_bias=True)), tolerance)


def test_the_biases_of_two_active_adapters_add_up():
    model = peft_model(["c_attn"], lora_bias=True)
    model.add_adapter("second", bias_config(["c_attn", "c_fc"]))
    model.set_adapter(["default", "second"])
    assert_merges(perturbed(model), 1e-5)


def test_gradients():
    model = PeftModel(TwoLayers().to(dtype=np.float64), bias_config(["second"]))
    trained = [p for p in perturbed(model).parameters() if p.requires_grad]
    assert [p.shape for p in trained] == [(3, 5), (3, 3), (3,)]
    x = Tensor(np.random.default_rng(3).standard_normal((4, 6)), requires_grad=True)
    gradcheck(lambda x, *trained: model(x), [x, *trained])


def test_the_bias_passes_dropout_by():
    """With A's input all dropped or zero, what is left of the branch is s·c."""
    model = peft_model(["second"], TwoLayers(), lora_bias=True, lora_dropout=0.5)
    layer = perturbed(model).train().get_base_model().second
    x = np.zeros((2, 5), np.float32)
    c = layer.lora_B["default"].bias.data
    np.testing.assert_allclose(layer(x).data - layer.base_layer(x).data, np.tile(2 * c, (2, 1)), rtol=1e-5)


def test_an_adapter_comes_back_bit_for_bit(tmp_path):
    model = perturbed(peft_model("all-linear", lora_bias=True))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


class TestRefusals:
    @pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
    def test_merging_into_a_layer_without_a_bias(self, merge):
        model = tiny_model(tie_word_embeddings=False)
        with pytest.warns(UserWarning, match="a targeted Linear has no bias that it could be merged into"):
            model = perturbed(peft_model(["c_attn", "lm_head"], model, lora_bias=True))
        before, expected = snapshot(model), logits_of(model)
        assert "cannot be merged into a layer that has no bias" in refusal(ValueError, getattr(model, merge))
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits_of(model), expected)

    @pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
    def test_what_it_does_not_go_with(self, options):
        message = refusal(ValueError, lambda: bias_config(**options))
        assert "lora_bias goes with" in message

    def test_an_embedding(self):
        model = tiny_model()
        before = snapshot(model)
        message = refusal(ValueError, lambda: peft_model(["c_attn", "wte"], model, lora_bias=True))
        assert "lora_bias is for linear layers, not for an Embedding" in message
        assert snapshot(model) == before
        assert isinstance(model.transformer.wte, nn.Embedding)


def test_relative_size_of_the_bias_is_scaled():
    """s multiplies the bias too: twice the alpha, twice its effect."""
    outputs = []
    for alpha in (4, 8):
        model = perturbed(peft_model(["second"], TwoLayers(), lora_bias=True, lora_alpha=alpha, init_lora_weights=True))
        layer = model.get_base_model().second
        x = np.zeros((1, 5), np.float32)
        outputs.append(layer(x).data - layer.base_layer(x).data)
    assert relative(outputs[1], 2 * outputs[0]) < 1e-6
