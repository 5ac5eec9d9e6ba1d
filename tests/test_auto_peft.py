"""A model and its adapter from the adapter's folder alone."""

import warnings

import numpy as np
import pytest
from lora_helpers import logits_of, refusal, relative, some_ids, tiny_model

from lora_np import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftConfig,
    PeftModelForCausalLM,
    PeftModelForSequenceClassification,
    get_peft_model,
)


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = LoraConfig(
        target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM", fan_in_fan_out=True, r=2
    )
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapters" / "mine")
    return tmp_path / "adapters" / "mine", logits_of(model.eval())


def test_both_are_loaded(folder):
    model = AutoPeftModelForCausalLM.from_pretrained(folder[0])
    assert isinstance(model, PeftModelForCausalLM)
    np.testing.assert_array_equal(logits_of(model), folder[1])
    assert model.get_nb_trainable_parameters()[0] == 0


def test_keywords_go_where_they_belong(folder):
    config = PeftConfig.from_pretrained(folder[0])
    config.lora_alpha = 0
    model = AutoPeftModelForCausalLM.from_pretrained(
        folder[0].parent, "a", True, config, subfolder="mine", token=None, dtype="float64", device_map="cpu"
    )
    assert (model.active_adapter, model.dtype.name) == ("a", "float64")
    np.testing.assert_allclose(logits_of(model), logits_of(tiny_model()), rtol=1e-4, atol=1e-5)
    assert model.get_nb_trainable_parameters()[0] > 0


def test_a_misspelt_keyword(folder):
    message = refusal(TypeError, lambda: AutoPeftModelForCausalLM.from_pretrained(folder[0], dtpye="float32"))
    assert "did you mean 'dtype'?" in message


def test_an_adapter_that_does_not_say_its_base(tmp_path):
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(tiny_model(), config).save_pretrained(tmp_path)
    message = refusal(ValueError, lambda: AutoPeftModelForCausalLM.from_pretrained(tmp_path))
    assert "base_model_name_or_path" in message
    assert "PeftModel.from_pretrained(model, folder)" in message


@pytest.fixture
def classifier(tmp_path):
    """The folder of an adapter for three classes, and its logits."""
    tiny_model(pad_token_id=3).save_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="newly initialized"):
        base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    options = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "init_lora_weights": False, "r": 2}
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **options))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", logits_of(model.eval())


def test_a_classifier_has_as_many_classes_as_its_adapter(classifier):
    folder, logits = classifier
    with warnings.catch_warnings(action="error"):
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder)
    assert isinstance(model, PeftModelForSequenceClassification)
    np.testing.assert_array_equal(logits_of(model), logits)
    named = AutoPeftModelForSequenceClassification.from_pretrained(folder, id2label={0: "a", 1: "b", 2: "c"})
    assert named.config.id2label == {0: "a", 1: "b", 2: "c"}
    np.testing.assert_array_equal(logits_of(named), logits)
    message = refusal(ValueError, lambda: AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=2))
    assert "score.weight has shape (3, 16) instead of (2, 16)" in message


def test_names_of_another_number_of_classes_are_not_the_adapters(classifier):
    folder, _ = classifier
    (folder / "config.json").write_text('{"id2label": {"0": "a", "1": "b"}, "pad_token_id": 5}')
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder)
    assert (model.config.num_labels, model.config.pad_token_id) == (3, 5)


@pytest.mark.parity
def test_a_classifiers_adapter_is_pefts(classifier):
    import peft
    import torch

    folder, logits = classifier
    twin = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    with torch.no_grad():
        assert relative(logits, twin(torch.tensor(some_ids(twin.config))).logits) < 2e-5


def test_an_adapter_for_another_task(folder, classifier):
    message = refusal(ValueError, lambda: AutoPeftModelForSequenceClassification.from_pretrained(folder[0]))
    assert "has an adapter for a PeftModelForCausalLM: load it with AutoPeftModelForCausalLM" in message
    message = refusal(ValueError, lambda: AutoPeftModelForCausalLM.from_pretrained(classifier[0]))
    assert "has an adapter for a PeftModelForSequenceClassification: load it with AutoPeftModelForSequence" in message
