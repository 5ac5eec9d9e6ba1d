"""DoRA: PEFT's numbers and files; the length of each row is what is trained, and n is a constant for the gradient."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_merges,
    logits_of,
    peft_model,
    perturbed,
    relative,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, Tensor, gradcheck, manual_seed, nn, no_grad
from lora_np.autograd import functional as F
from lora_np.lora import LoraLinear
from lora_np.lora.base_layer import oriented

TARGETS = {"c_attn": ["c_attn"], "two": ["c_attn", "mlp.c_proj"], "all-linear": "all-linear"}
TARGETS["embeddings"] = ["wte", "wpe", "c_attn"]
MAGNITUDE = "base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector"


def dora_config(targets=("c_attn",), **options):
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": True, **options}
    targets = targets if isinstance(targets, str) else list(targets)
    return LoraConfig(target_modules=targets, use_dora=True, **options)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
class TestAgainstPeft:
    def test_names_logits_loss_and_gradients(self, targets, use_rslora):
        assert_equal_to_peft(dora_config(targets, use_rslora=use_rslora), tiny_model())

    def test_files(self, targets, use_rslora, tmp_path):
        layout = assert_exchanged_with_peft(dora_config(targets, use_rslora=use_rslora), tiny_model(), tmp_path)
        assert layout[MAGNITUDE] == (48,)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:fan_in_fan_out set to")
def test_a_head_without_a_bias_against_peft(tmp_path):
    assert_equal_to_peft(dora_config(["lm_head", "c_attn"]), tiny_model(tie_word_embeddings=False))


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "pissa", "olora"])
def test_it_starts_at_the_base_model(start):
    """With `False`, m starts as the length of the rows of W + s·B A: it is LoRA, not the base, that it starts at."""
    options = {"init_lora_weights": start, "lora_dropout": 0.5}
    manual_seed(0)
    model = peft_model("all-linear", use_dora=True, **options)
    manual_seed(0)
    expected = peft_model("all-linear", **options) if start is False else tiny_model()
    assert relative(logits_of(model), logits_of(expected)) < 2e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_merging(targets, dtype, tolerance):
    base = tiny_model(tie_word_embeddings=False).to(dtype=dtype)
    assert_merges(perturbed(peft_model(targets, base, use_dora=True)), tolerance)


def test_an_embedding_starts_as_it_was_and_has_a_magnitude_for_each_column():
    model = peft_model(["wte"], use_dora=True, init_lora_weights=True)
    assert relative(logits_of(model), logits_of(tiny_model())) < 2e-6
    assert model.base_model.adapted["transformer.wte"].lora_magnitude_vector["default"].weight.shape == (16,)


def test_the_rows_of_the_merged_weight_are_as_long_as_m_says():
    model = perturbed(peft_model(["c_attn"], use_dora=True))
    model.merge_adapter()
    for _, layer in model.base_model.layers():
        m = layer.lora_magnitude_vector["default"].weight.data
        np.testing.assert_allclose(np.linalg.norm(layer.base_layer.weight.data, axis=0), np.abs(m), rtol=1e-6)


def test_an_adapter_comes_back_bit_for_bit_also_from_pissa(tmp_path):
    model = perturbed(peft_model(["c_attn"], use_dora=True, init_lora_weights="pissa"))
    expected = logits_of(model)
    model.save_pretrained(tmp_path / "as_plain", as_plain_lora=True)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path / "as_plain")), expected) < 1e-5
    model = perturbed(peft_model(["c_attn"], use_dora=True))
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits_of(model))


def test_it_can_be_renamed_and_deleted():
    model = perturbed(peft_model(["c_attn"], use_dora=True))
    expected = logits_of(model)
    model.rename_adapter("default", "other")
    np.testing.assert_array_equal(logits_of(model), expected)
    assert any(name.endswith("lora_magnitude_vector.other.weight") for name, _ in model.named_parameters())
    model.add_adapter("plain", LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    model.delete_adapter("other")
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert not any(".other." in name for name, _ in model.named_parameters())


class TestOneLayer:
    """In float64, against the formula written out with n as a constant."""

    @staticmethod
    def layer(kind, bias, dropout=0.0):
        base = (nn.Conv1D(5, 6) if kind == "Conv1D" else nn.Linear(6, 5, bias=bias)).to(dtype=np.float64)
        rng = np.random.default_rng(3)
        for p in base.parameters():
            p.data = rng.standard_normal(p.shape)
        layer = LoraLinear(base)
        layer.add_adapter("default", dora_config(r=2, lora_dropout=dropout))
        layer.active_adapters = ["default"]
        base.requires_grad_(False)
        return perturbed(layer, scale=0.5), Tensor(rng.standard_normal((4, 6)), requires_grad=True)

    @staticmethod
    def by_hand(layer):
        """f(x, dropped x, A, B, m), and the tensors A, B, m of the layer. The lengths n are an array."""
        W = oriented(layer.base_layer, layer.base_layer.weight.data)
        n = np.linalg.norm(W + layer.delta_weight("default"), axis=1)
        b = np.zeros(5) if layer.base_layer.bias is None else layer.base_layer.bias.data

        def formula(x, dropped, A, B, m):
            update = F.linear(F.linear(dropped, A), B) * layer.scaling["default"]
            return F.linear(x, W) + b + (m / n - 1.0) * F.linear(dropped, W) + m / n * update

        return formula, [*layer.matrices("default"), layer.lora_magnitude_vector["default"].weight]

    @pytest.mark.parametrize(("kind", "bias"), [("Linear", True), ("Linear", False), ("Conv1D", True)])
    def test_gradients(self, kind, bias):
        layer, x = self.layer(kind, bias)
        formula, parameters = self.by_hand(layer)
        gradcheck(lambda x, A, B, m: formula(x, x, A, B, m), [x, *parameters])
        gradcheck(lambda x, m: layer(x), [x, parameters[-1]])  # n does not depend on these
        assert self.compare(layer, x, lambda: formula(x, x, *parameters), [x, *parameters]) < 1e-12

    @pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
    def test_dropout_acts_on_both_added_terms_in_training_only(self, kind):
        layer, x = self.layer(kind, bias=True, dropout=0.5)
        formula, parameters = self.by_hand(layer)
        assert self.compare(layer.eval(), x, lambda: formula(x, x, *parameters), [x, *parameters]) < 1e-12
        layer.train()
        dropout = layer.lora_dropout["default"]
        assert self.compare(layer, x, lambda: formula(x, dropout(x), *parameters), [x, *parameters]) < 1e-12
        with no_grad():
            assert relative(layer(x).data, layer.eval()(x).data) > 1e-3

    @staticmethod
    def compare(layer, x, formula, tensors):
        """The largest relative difference of results and gradients."""
        results = []
        for function in (lambda: layer(x), formula):
            manual_seed(7)
            y = function()
            for tensor in tensors:
                tensor.grad = None
            (y * np.arange(y.data.size, dtype=np.float64).reshape(y.shape)).sum().backward()
            results.append([y.data, *(tensor.grad for tensor in tensors)])
        return max(relative(found, expected) for found, expected in zip(*results, strict=True))
