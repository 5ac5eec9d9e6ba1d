"""Transformers' keywords of from_pretrained: honoured, accepted, or refused with a reason."""

import json
import sys

import numpy as np
import pytest
from lora_helpers import logits_of, refusal, tiny_llama, tiny_model

from lora_np import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    ByteTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LoraConfig,
    get_peft_model,
    nn,
)
from lora_np.models.base import CausalLM
from lora_np.models.config import ModelConfig
from lora_np.models.loading.options import UNUSED, wanted_device


@pytest.fixture
def saved(tmp_path):
    tiny_model().save_pretrained(tmp_path / "gpt2")
    tiny_llama().save_pretrained(tmp_path / "in" / "llama")
    ByteTokenizer().save_pretrained(tmp_path / "gpt2")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "float32"),
        ({"dtype": "auto"}, "float32"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": np.float64}, "float64"),
        ({"dtype": "torch.float16", "torch_dtype": "float64"}, "float16"),
    ],
)
def test_dtypes(saved, given, name):
    assert AutoModelForCausalLM.from_pretrained(saved / "gpt2", **given).dtype.name == name


@pytest.mark.parametrize("dtype", ["int8", "floaty", 3])
def test_dtypes_that_are_not_here(saved, dtype):
    message = refusal(ValueError, lambda: AutoModelForCausalLM.from_pretrained(saved / "gpt2", dtype=dtype))
    assert "dtype" in message
    assert str(dtype) in message


def test_bfloat16_needs_a_package(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="bfloat16 needs the package ml_dtypes: pip install"):
        AutoModelForCausalLM.from_pretrained(saved / "gpt2", torch_dtype="bfloat16")


@pytest.mark.parametrize(
    ("device_map", "device"),
    [
        (None, "cpu"),
        ("cpu", "cpu"),
        ({"": "cpu"}, "cpu"),
        ({"lm_head": 1, "model": 1}, "cuda:1"),
        (0, "cuda:0"),
        ("cuda:2", "cuda:2"),
    ],
)
def test_a_device_map_is_one_device(device_map, device):
    assert wanted_device("cpu", device_map) == device


def test_two_devices_are_refused():
    assert "cpu, cuda:0" in refusal(ValueError, lambda: wanted_device("cpu", {"a": "cpu", "b": 0}))


@pytest.mark.parametrize("device_map", ["auto", "balanced"])
def test_auto_runs_anywhere(saved, device_map):
    assert AutoModelForCausalLM.from_pretrained(saved / "gpt2", device_map=device_map).num_parameters() > 0


def test_every_refusal_says_why_and_every_neutral_value_passes(saved):
    for name, (why, neutral) in UNUSED.items():
        for value in (None, *neutral):
            AutoModelForCausalLM.from_pretrained(saved / "gpt2", **{name: value})
        if why is not None:
            given = {name: "something"}
            message = refusal(
                ValueError, lambda given=given: AutoModelForCausalLM.from_pretrained(saved / "gpt2", **given)
            )
            assert message == f"AutoModelForCausalLM.from_pretrained: {name}='something' is not supported: {why}"


@pytest.mark.parametrize(
    ("load", "call"),
    [
        (AutoModelForCausalLM.from_pretrained, "AutoModelForCausalLM.from_pretrained"),
        (GPT2LMHeadModel.from_pretrained, "GPT2LMHeadModel.from_pretrained"),
        (AutoConfig.from_pretrained, "AutoConfig.from_pretrained"),
        (GPT2Config.from_pretrained, "GPT2Config.from_pretrained"),
        (AutoTokenizer.from_pretrained, "AutoTokenizer.from_pretrained"),
    ],
)
def test_an_unknown_keyword_gets_the_nearest(saved, load, call):
    message = refusal(TypeError, lambda: load(saved / "gpt2", subfoldr="x"))
    assert message == f"{call} has no option 'subfoldr'; did you mean 'subfolder'?"


def test_a_field_of_the_config_is_changed(saved):
    model = AutoModelForCausalLM.from_pretrained(saved / "gpt2", attn_pdrop=0.5)
    assert model.config.attn_pdrop == 0.5
    assert AutoConfig.from_pretrained(saved / "gpt2", n_layer=1).n_layer == 1
    assert "did you mean 'attn_pdrop'" in refusal(
        TypeError, lambda: AutoModelForCausalLM.from_pretrained(saved / "gpt2", attn_drop=0.5)
    )


def test_a_field_that_does_not_fit_the_weights_is_refused(saved):
    message = refusal(ValueError, lambda: AutoModelForCausalLM.from_pretrained(saved / "gpt2", n_embd=32))
    assert "wrong shapes" in message


def test_a_config_of_ones_own(saved):
    config = GPT2Config.from_pretrained(saved / "gpt2")
    config.resid_pdrop = 0.5
    for given in (config, saved / "gpt2"):
        model = AutoModelForCausalLM.from_pretrained(saved / "gpt2", config=given)
        assert model.config.resid_pdrop == (0.5 if given is config else 0.0)
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))


def test_a_folder_in_the_folder(saved):
    model = AutoModelForCausalLM.from_pretrained(saved / "in", subfolder="llama", revision="main", token=None)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_llama()))
    assert isinstance(AutoConfig.from_pretrained(saved / "in", subfolder="llama"), LlamaConfig)


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, CausalLM])
def test_a_models_own_class(saved, kind):
    model = kind.from_pretrained(saved / "gpt2", dtype="float32")
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert not model.training


def test_another_models_class_is_refused(saved):
    message = refusal(ValueError, lambda: LlamaForCausalLM.from_pretrained(saved / "gpt2"))
    assert "is for a GPT2LMHeadModel, not for a LlamaForCausalLM: load it with AutoModelForCausalLM" in message
    message = refusal(ValueError, lambda: LlamaConfig.from_pretrained(saved / "gpt2"))
    assert "has a GPT2Config" in message


def test_a_config_by_any_class(saved):
    for kind in (GPT2Config, ModelConfig, AutoConfig):
        assert kind.from_pretrained(saved / "gpt2") == tiny_model().config
    assert AutoConfig.for_model("gpt2", n_layer=3) == GPT2Config(n_layer=3)


def test_a_config_that_is_saved_comes_back(tmp_path):
    config = LlamaConfig(hidden_size=32, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path) == config
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"


def test_a_field_that_does_not_exist_gets_the_nearest():
    assert "did you mean 'n_layer'" in refusal(TypeError, lambda: GPT2Config(n_layers=3))


def test_a_new_model_from_a_config():
    config = tiny_model().config
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", resid_pdrop=0.25, dtype="float64")
    assert (type(model), model.dtype.name, model.training) == (GPT2LMHeadModel, "float64", True)
    assert (model.config.resid_pdrop, config.resid_pdrop) == (0.25, 0.0)
    assert "config should be" in refusal(TypeError, lambda: AutoModelForCausalLM.from_config("gpt2"))


def test_an_adapters_folder_says_what_loads_it(tmp_path):
    get_peft_model(tiny_model(), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained(tmp_path)
    message = refusal(ValueError, lambda: AutoModelForCausalLM.from_pretrained(tmp_path))
    assert "AutoPeftModelForCausalLM.from_pretrained loads both (for classifiers AutoPeftModelForSeq" in message


def test_a_tokenizers_attributes(saved):
    tokenizer = AutoTokenizer.from_pretrained(
        saved / "gpt2", padding_side="left", use_fast=True, trust_remote_code=True
    )
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize(
    "given", [{"safe_serialization": True}, {"max_shard_size": "1GB"}, {"push_to_hub": False}, {"variant": None}]
)
def test_saving_with_transformers_keywords(tmp_path, given):
    tiny_model().save_pretrained(save_directory=tmp_path, **given)
    assert (tmp_path / "model.safetensors").is_file()


def test_saving_what_cannot_be(tmp_path):
    model = tiny_model()
    assert "pickle" in refusal(ValueError, lambda: model.save_pretrained(tmp_path, safe_serialization=False))
    assert "'safe_serialization'" in refusal(
        TypeError, lambda: model.save_pretrained(tmp_path, safe_serialisation=True)
    )
    model.save_pretrained(tmp_path / "not", is_main_process=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        {"load_in_4bit": True},
        {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")},
        {"quantization_config": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}},
    ],
)
def test_a_base_in_4_bits(tmp_path, given):
    tiny_llama(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **given)
    expected = nn.quantize_model(AutoModelForCausalLM.from_pretrained(tmp_path), double_quant=False)
    np.testing.assert_array_equal(logits_of(model), logits_of(expected))
    assert isinstance(model.model.layers[0].self_attn.q_proj, nn.Linear4bit)
    assert not isinstance(model.lm_head, nn.Linear4bit)


def test_layers_left_out_of_4_bits_and_scales_in_8(tmp_path):
    tiny_llama(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["q_proj"], bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    attention = model.model.layers[0].self_attn
    assert not isinstance(attention.q_proj, nn.Linear4bit)
    assert attention.k_proj.weight_absmax_scale is not None


def test_bits_that_are_not_here(saved):
    assert "load_in_4bit=True" in refusal(ValueError, lambda: BitsAndBytesConfig(load_in_8bit=True))
    assert "'nf4'" in refusal(ValueError, lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"))
    assert "load_in_4bit should be True or False" in refusal(TypeError, lambda: BitsAndBytesConfig(load_in_4bit="yes"))
    message = refusal(ValueError, lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="foo"))
    assert message.startswith("bnb_4bit_compute_dtype must be one of 'float16'")
    load = AutoModelForCausalLM.from_pretrained
    both = {"load_in_4bit": True, "quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
    assert "both say how many bits" in refusal(ValueError, lambda: load(saved / "gpt2", **both))
    assert "should be a BitsAndBytesConfig" in refusal(
        TypeError, lambda: load(saved / "gpt2", quantization_config="4bit")
    )


@pytest.mark.parity
def test_the_settings_of_4_bits_are_transformers():
    import inspect

    import transformers

    theirs = list(inspect.signature(transformers.BitsAndBytesConfig).parameters)
    assert list(inspect.signature(BitsAndBytesConfig).parameters) == [n for n in theirs if n != "kwargs"]


def test_a_base_in_4_bits_is_made_on_the_gpu_where_it_is_to_be(saved, monkeypatch):
    from lora_np.models.loading import quantization

    seen = []
    monkeypatch.setattr(quantization.nn, "quantize_model", lambda model, **options: seen.append(options) or model)
    config = {"load_in_4bit": True}
    for device in ("cpu", "cuda:1"):
        quantization.quantized(None, config, device)
    assert [options.get("device") for options in seen] == [None, "cuda:1"]
