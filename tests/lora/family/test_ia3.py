"""(IA)³: one number scales each output of a layer, or each input of a feed-forward one."""

import numpy as np
import pytest
from family_tests import FamilyTests
from lora_helpers import hugging_face_twin, logits_of, refusal, relative, tiny_llama, tiny_model

from lora_np import PeftModel, get_peft_model
from lora_np.lora import IA3Config


class TestIA3(FamilyTests):
    name = "IA3Config"
    targets = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["k_proj", "v_proj", "down_proj"]}
    variants = [{"feedforward_modules": []}, {"feedforward_modules": r".*"}, {"init_ia3_weights": False}]
    without_names = {"feedforward_modules": []}


@pytest.mark.parametrize(("base", "numbers"), [(tiny_model, 2 * (48 + 64)), (tiny_llama, 2 * (8 + 8 + 24))])
def test_the_usual_layers_of_each_architecture(base, numbers):
    model = get_peft_model(base(), IA3Config(fan_in_fan_out=base is tiny_model))
    assert model.get_nb_trainable_parameters()[0] == numbers
    layers = model.base_model.layers()
    assert {name.rpartition(".")[2] for name, layer in layers if layer.adapters["default"].feedforward} == {
        "c_proj" if base is tiny_model else "down_proj"
    }


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_the_usual_layers_are_pefts(kind):
    from peft.utils import constants

    from lora_np.lora.family.ia3 import FEEDFORWARD, TARGETS

    assert constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind] == TARGETS[kind]
    assert constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind] == FEEDFORWARD[kind]


@pytest.mark.parametrize("targets", [["c_attn"], "all-linear", None])
def test_usual_feedforward_layers_beside_any_targets_survive_a_file(targets, tmp_path):
    model = get_peft_model(tiny_model(), IA3Config(target_modules=targets, fan_in_fan_out=True, init_ia3_weights=False))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_only_the_output_of_a_layer_has_a_bias_to_scale():
    for feedforward, expected in (([], 3.0), (["c_attn"], 1.0)):
        config = IA3Config(target_modules=["c_attn"], feedforward_modules=feedforward, fan_in_fan_out=True)
        model = get_peft_model(tiny_model(), config)
        for name, p in model.named_parameters():
            if "ia3_l" in name:
                p.data = p.data * 3
        bias = tiny_model().transformer.h[0].attn.c_attn.bias.data
        merged = model.merge_and_unload().transformer.h[0].attn.c_attn.bias.data
        np.testing.assert_array_equal(merged, bias * np.float32(expected))


def two_adapters():
    """A model with "default" and "b", which has one layer more in each block."""
    options = {"feedforward_modules": ["down_proj"], "init_ia3_weights": False}
    model = get_peft_model(tiny_llama(), IA3Config(target_modules=["k_proj", "down_proj"], **options))
    model.add_adapter("b", IA3Config(target_modules=["k_proj", "down_proj", "v_proj"], **options))
    return model


def test_weighted_sums_of_adapters(tmp_path):
    model = two_adapters()
    model.add_weighted_adapter(["default", "b"], [0.25, 2.0], "sum")
    for name, layer in model.base_model.layers():
        scales = {n: adapter.ia3_l.data for n, adapter in layer.adapters.items()}
        expected = 0.25 * scales.get("default", 0) + 2.0 * scales["b"]
        np.testing.assert_allclose(scales["sum"], expected, rtol=1e-6, err_msg=name)
    model.set_adapter("sum")
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "sum")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


@pytest.mark.parity
def test_weighted_sums_are_pefts(tmp_path):
    import peft

    model = two_adapters()
    model.save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(hugging_face_twin(tiny_llama()), tmp_path)
    theirs.load_adapter(tmp_path / "b", "b")
    theirs.base_model.add_weighted_adapter(["default", "b"], [0.25, 2.0], "sum")
    model.base_model.add_weighted_adapter(["default", "b"], [0.25, 2.0], "sum")
    model.set_adapter("sum")
    theirs.set_adapter("sum")
    assert relative(logits_of(model), logits_of(theirs.eval())) < 2e-5


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: two_adapters().add_weighted_adapter(["default", "b"], [1, 1], "c", "ties"), "'ties' is for LoRA"),
        (lambda: IA3Config(target_modules=["a"], feedforward_modules=["b"]), "feedforward_modules has b"),
        (lambda: IA3Config(feedforward_modules=3), "feedforward_modules must be a list"),
        (lambda: IA3Config(init_ia3_weights="no"), "init_ia3_weights must be True or False"),
        (lambda: IA3Config(exclude_modules=["a.*"]), "exclude_modules has 'a.*'"),
        (lambda: get_peft_model(Other(), IA3Config(target_modules=["first"])), "name them, or [] for none"),
        (lambda: get_peft_model(tiny_model(), IA3Config()).set_scale("default", 2), "no scaling"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


def Other():
    from lora_helpers import TwoLayers

    return TwoLayers()
