"""Classifiers from files: those of language models, their own, and Transformers'."""

import json
import warnings

import numpy as np
import pytest
from classifier_helpers import IDS, config_of, tiny_classifier, twin_of
from gguf_helpers import write_gguf
from lora_helpers import relative, tiny_llama, tiny_model

from lora_np import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    LoraConfig,
    get_peft_model,
    manual_seed,
    nn,
)
from lora_np.models import GPT2ForSequenceClassification, LlamaForSequenceClassification
from lora_np.models.architectures import ARCHITECTURES

load = AutoModelForSequenceClassification.from_pretrained


@pytest.mark.parametrize("base", [tiny_model, tiny_llama])
def test_a_language_models_transformer_is_taken_and_the_head_is_new(base, tmp_path):
    base().save_pretrained(tmp_path)
    manual_seed(0)
    with pytest.warns(UserWarning, match=r"has no score.weight for this model: newly initialized") as caught:
        model = load(tmp_path, num_labels=5, pad_token_id=3)
    assert caught[0].filename == __file__
    for name, p in base().named_parameters():
        if not name.startswith("lm_head"):
            np.testing.assert_array_equal(model.state_dict()[name], p.data)
    assert model.score.weight.shape == (5, 16)
    assert 0.01 < model.score.weight.data.std() < 0.03  # initializer_range
    assert not model.training
    manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        np.testing.assert_array_equal(load(tmp_path, num_labels=5).score.weight.data, model.score.weight.data)


def test_what_is_saved_comes_back_with_its_classes_and_without_a_warning(tmp_path):
    model = tiny_classifier(id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["GPT2ForSequenceClassification"]
    with warnings.catch_warnings(action="error"):
        again = load(tmp_path)
        assert load(tmp_path, num_labels=3).config.id2label == {0: "a", 1: "b", 2: "c"}
    assert again.config == model.config
    np.testing.assert_array_equal(again(IDS).logits.data, model(IDS).logits.data)
    assert load(tmp_path, id2label={0: "x", 1: "y", 2: "z"}).config.label2id == {"x": 0, "y": 1, "z": 2}


def test_another_number_of_classes_needs_a_new_head_and_says_so(tmp_path):
    tiny_classifier(num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"score.weight \(3, 16\) and num_labels is 4: .*ignore_mismatched_sizes=True"):
        load(tmp_path, num_labels=4)
    with pytest.warns(UserWarning, match="newly initialized"):
        assert load(tmp_path, num_labels=4, ignore_mismatched_sizes=True)(IDS).logits.shape == (5, 4)


def test_a_class_by_its_name_loads_its_own_kind_only(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    assert type(GPT2ForSequenceClassification.from_pretrained(tmp_path)) is GPT2ForSequenceClassification
    said = "is for a GPT2ForSequenceClassification, not for a LlamaForSequenceClass.* load it with AutoModelForSeq"
    with pytest.raises(ValueError, match=said):
        LlamaForSequenceClassification.from_pretrained(tmp_path)


def test_an_argument_that_is_none_is_refused(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="no option 'num_lables'; did you mean 'num_labels'"):
        load(tmp_path, num_lables=3)
    with pytest.raises(ValueError, match="problem_type must be one of"):
        load(tmp_path, problem_type="x")


def test_a_classifier_is_no_language_model(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"GPT2ForSequenceClassification.*AutoModelForSequenceClassification"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_damaged_transformer_is_refused(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "n_layer": 3}))
    with pytest.raises(ValueError, match=r"missing transformer\.h\.2"):
        load(tmp_path)


def test_a_config_makes_one_with_random_weights():
    model = AutoModelForSequenceClassification.from_config(config_of("llama", num_labels=4))
    assert type(model) is LlamaForSequenceClassification
    assert model(IDS).logits.shape == (5, 4)
    changed = AutoModelForSequenceClassification.from_config(
        config_of("gpt2", num_labels=4), num_labels=3, dtype="float64"
    )
    assert (changed.num_labels, len(changed.config.label2id), changed.dtype.name) == (3, 3, "float64")
    with pytest.raises(TypeError, match="config should be a configuration, such as AutoConfig"):
        AutoModelForSequenceClassification.from_config("gpt2")
    with pytest.raises(TypeError, match=r"AutoModelForSequenceClassification.from_config has no option .*'num_labels'"):
        AutoModelForSequenceClassification.from_config(config_of("gpt2"), num_lables=3)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_files_are_exchanged_with_transformers(kind, tmp_path):
    import torch
    import transformers

    model = tiny_classifier(kind, id2label={0: "a", 1: "b", 2: "c"})
    model.save_pretrained(tmp_path / "ours")
    twin, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert twin.config.id2label == model.config.id2label
    assert type(twin).__name__ == type(model).__name__
    with torch.no_grad():
        assert relative(model(IDS).logits.data, twin.eval()(torch.tensor(IDS)).logits) < 2e-5
    twin_of(model).save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings(action="error"):
        back = load(tmp_path / "theirs")
    assert back.config.id2label == model.config.id2label
    np.testing.assert_array_equal(back(IDS).logits.data, model(IDS).logits.data)


def test_a_config_takes_the_place_of_the_files(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = config_of("gpt2", id2label={0: "a", 1: "b", 2: "c"})
    with pytest.warns(UserWarning, match="newly initialized"):
        model = load(tmp_path, config=config)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.pad_token_id == config.pad_token_id
    with pytest.warns(UserWarning, match="newly initialized"):
        assert load(tmp_path, config=config, num_labels=2).config.num_labels == 2


def test_transformers_keywords(tmp_path):
    tiny_classifier(num_labels=3).save_pretrained(tmp_path / "sub")
    model = load(
        tmp_path, subfolder="sub", dtype="float64", device_map="auto", low_cpu_mem_usage=True, trust_remote_code=True,
        attn_implementation="sdpa", use_safetensors=True, revision="main", cache_dir=None, token=None, num_labels=None,
        id2label=None, label2id=None, problem_type=None, torch_dtype=None, local_files_only=True,
    )  # fmt: skip
    assert (model.dtype.name, model.device, model.num_labels) == ("float64", "cpu", 3)
    assert model.config.name_or_path == str(tmp_path)
    np.testing.assert_array_equal(model(IDS).logits.data, tiny_classifier(num_labels=3).to(dtype="float64")(IDS).logits)
    changed = load(tmp_path / "sub", problem_type="multi_label_classification", attn_pdrop=0.5)
    assert (changed.config.problem_type, changed.config.attn_pdrop) == ("multi_label_classification", 0.5)
    assert load(tmp_path / "sub", config=str(tmp_path / "sub")).num_labels == 3
    for call in (load, GPT2ForSequenceClassification.from_pretrained):
        with pytest.raises(ValueError, match="use_safetensors=False is not supported: that is a pickle"):
            call(tmp_path / "sub", use_safetensors=False)
        with pytest.raises(ValueError, match=r"from_pretrained: output_loading_info=True is not supported"):
            call(tmp_path / "sub", output_loading_info=True)
        with pytest.raises(TypeError, match="did you mean 'num_labels'"):
            call(tmp_path / "sub", nun_labels=2)


@pytest.mark.parametrize(
    "option", [{"load_in_4bit": True}, {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}]
)
def test_a_classifier_in_4_bits(option, tmp_path):
    tiny_classifier(num_labels=3, n_embd=64).save_pretrained(tmp_path)
    model = load(tmp_path, **option)
    assert isinstance(model.transformer.h[0].attn.c_attn, nn.Linear4bit)
    assert type(model.score) is nn.Linear
    assert relative(model(IDS).logits.data, load(tmp_path)(IDS).logits.data) < 0.2


@pytest.mark.parametrize("base", [tiny_model, tiny_llama])
def test_a_classifier_of_a_gguf_file(base, tmp_path):
    """Its transformer is the file's; with num_labels and names it is saved and comes back."""
    write_gguf(tmp_path / "base.gguf", base())
    for place in ({"gguf_file": "base.gguf"}, {}):
        with pytest.warns(UserWarning, match="newly initialized"):
            model = load(tmp_path if place else tmp_path / "base.gguf", num_labels=3, pad_token_id=3, **place)
    for name, p in base().named_parameters():
        if not name.startswith("lm_head"):
            np.testing.assert_array_equal(model.state_dict()[name], p.data)
    peft_model = get_peft_model(model, LoraConfig(r=2, task_type="SEQ_CLS"))
    peft_model(IDS, labels=np.array([0, 1, 2, 0, 1])).loss.backward()
    assert all(p.grad is not None for p in peft_model.parameters() if p.requires_grad)
    model = peft_model.unload()
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(load(tmp_path / "saved")(IDS).logits.data, model(IDS).logits.data)


def test_what_it_returns_is_as_of_a_language_model():
    model = tiny_classifier(num_labels=3)
    out = model(IDS, labels=np.zeros(5, int))
    assert list(out) == ["loss", "logits"]
    assert out["logits"] is out[1] is out.logits
    assert out[0] is out.loss
    assert len(model(IDS)) == 1
    assert model(IDS).to_tuple()[0].shape == (5, 3)
    assert repr(model(IDS)) == "SequenceClassifierOutput(logits=Tensor of shape (5, 3))"
