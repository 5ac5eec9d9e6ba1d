"""LoRA on an embedding: PEFT's numbers and files, and a tied head that must not be changed along."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_merges,
    gradients,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, gradcheck, nn
from lora_np.lora import LoraEmbedding
from lora_np.models.loading.checkpoints import load_pretrained

TARGETS = {"wte": ["wte"], "wte and c_attn": ["wte", "c_attn"], "both embeddings": ["wte", "wpe"]}
WTE = "base_model.model.transformer.wte.lora_embedding"
each_target = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
each_tying = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("use_rslora", [False, True])
@each_tying
@each_target
class TestAgainstPeft:
    @staticmethod
    def config(targets, use_rslora):
        options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": True}
        return LoraConfig(target_modules=targets, use_rslora=use_rslora, **options)

    def test_names_logits_loss_and_gradients(self, targets, tied, use_rslora):
        assert_equal_to_peft(self.config(targets, use_rslora), tiny_model(tie_word_embeddings=tied))

    def test_files(self, targets, tied, use_rslora, tmp_path):
        base = tiny_model(tie_word_embeddings=tied)
        layout = assert_exchanged_with_peft(self.config(targets, use_rslora), base, tmp_path)
        assert (layout[f"{WTE}_A"], layout[f"{WTE}_B"]) == ((3, 31), (16, 3))


@each_target
def test_it_starts_at_the_base_model_bit_for_bit(targets):
    model = peft_model(targets, init_lora_weights=True)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    layer = model.get_base_model().transformer.wte
    A, B = layer.matrices("default")
    assert not A.data.any()
    assert B.data.all()


def test_only_the_tokens_met_get_a_gradient():
    found = gradients(peft_model(["wte"]))
    A = next(gradient for name, gradient in found.items() if "_A" in name)
    ids = np.unique(np.nonzero(A)[1])
    assert 0 < len(ids) < 31


def test_gradients_of_a_layer():
    base = nn.Embedding(7, 5).to(dtype=np.float64)
    layer = LoraEmbedding(base)
    layer.add_adapter("default", LoraConfig(r=2, init_lora_weights=False))
    layer.active_adapters = ["default"]
    ids = np.array([[1, 2, 2], [6, 0, 1]])
    A, B = layer.matrices("default")
    assert (A.dtype, B.dtype) == (np.float64, np.float64)
    gradcheck(lambda *parameters: layer(ids), [*base.parameters(), A, B])
    expected = (base.weight.data + 4 * (B.data @ A.data).T)[ids]
    assert relative(layer(ids).data, expected) < 1e-12


def test_there_is_no_dropout():
    model = peft_model(["wte"], lora_dropout=0.9).train()
    np.testing.assert_array_equal(logits_of(model), logits_of(model))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_target
def test_merging(targets, dtype, tolerance):
    base = tiny_model(tie_word_embeddings=False).to(dtype=dtype)
    assert_merges(perturbed(peft_model(targets, base)), tolerance)


@each_target
def test_an_adapter_comes_back_bit_for_bit(targets, tmp_path):
    model = perturbed(peft_model(targets))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_it_can_be_renamed_and_deleted():
    model = peft_model(["wte"])
    expected = logits_of(model)
    model.rename_adapter("default", "other")
    np.testing.assert_array_equal(logits_of(model), expected)
    model.delete_adapter("other")
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert isinstance(model.get_base_model().transformer.wte, nn.Embedding)


class TestATiedHead:
    @pytest.mark.parametrize("action", ["merge_adapter", "merge_and_unload"])
    @each_target
    def test_merging_is_refused_with_the_way_out(self, targets, action):
        model = peft_model(targets)
        before, expected = snapshot(model), logits_of(model)
        message = refusal(ValueError, getattr(model, action))
        assert "transformer.wte shares its weight" in message
        assert "untie_weights()" in message
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits_of(model), expected)

    @each_target
    def test_after_untying_it_merges(self, targets):
        model = peft_model(targets)
        expected = logits_of(model)
        model.untie_weights()
        np.testing.assert_array_equal(logits_of(model), expected)
        assert_merges(perturbed(model), 1e-5)

    def test_the_head_stays_as_it_was(self):
        model = peft_model(["wte"])
        model.untie_weights()
        plain = model.merge_and_unload()
        np.testing.assert_array_equal(plain.lm_head.weight.data, tiny_model().lm_head.weight.data)
        assert (plain.transformer.wte.weight.data != plain.lm_head.weight.data).all()

    @pytest.mark.parametrize("target", ["wte", "lm_head"])
    def test_the_untied_model_is_saved_as_one(self, target, tmp_path):
        model = peft_model([target])
        model.untie_weights()
        plain = model.merge_and_unload()
        plain.save_pretrained(tmp_path)
        np.testing.assert_array_equal(logits_of(load_pretrained(tmp_path)), logits_of(plain))


@pytest.mark.parametrize("start", ["gaussian", "orthogonal", "pissa", "olora", "eva"])
def test_it_begins_in_the_usual_way_where_linear_layers_begin_in_another(start):
    """As in PEFT: A is zero and B normal, and nothing is taken out of an embedding, which may be tied to the head."""
    model = peft_model(["c_attn", "wte"], init_lora_weights=start)
    np.testing.assert_allclose(logits_of(model), logits_of(tiny_model()), rtol=1e-4, atol=1e-5)
    layer = model.base_model.adapted["transformer.wte"]
    np.testing.assert_array_equal(layer.base_layer.weight.data, tiny_model().transformer.wte.weight.data)
    assert not layer.lora_embedding_A["default"].data.any()
    assert layer.lora_embedding_B["default"].data.std() > 0.5
    model.add_adapter("beside", LoraConfig(target_modules=["wte"], init_lora_weights=start))
