"""The table of architectures: what one entry leads to, everywhere."""

import json

import pytest

from lora_np import nn
from lora_np.cli import main
from lora_np.models.architectures import ARCHITECTURES, classes_of
from lora_np.models.loading.checkpoints import load_pretrained

EMPTY = b"\x02\0\0\0\0\0\0\0{}"  # a safetensors file without tensors


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_entry_and_its_classes_say_the_same(name):
    config_class, model_class = ARCHITECTURES[name]
    assert config_class.model_type == name
    assert config_class.architecture == model_class.__name__


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_config_comes_back_from_its_fields(name):
    config_class, _ = ARCHITECTURES[name]
    config = config_class(vocab_size=7)
    assert config.to_dict()["model_type"] == name
    assert config_class.from_dict(config.to_dict()) == config
    assert config_class.from_dict({**config.to_dict(), "transformers_version": "5", "vocab_size": 8}) != config


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [0, -1, 2.0, "7", None])
def test_a_size_that_is_none_is_refused(name, size):
    with pytest.raises(ValueError, match=f"vocab_size must be a positive integer, got {size!r}"):
        ARCHITECTURES[name][0](vocab_size=size)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_model_has_what_the_library_asks_of_every_model(name):
    config_class, model_class = ARCHITECTURES[name]
    small = {"gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2}}
    llama = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "num_attention_heads": 2}
    llama |= {"num_key_value_heads": 2} if "num_key_value_heads" in config_class.kinds() else {}
    with nn.uninitialized():
        model = model_class(config_class(vocab_size=7, **small.get(name, llama)))
    assert model.get_submodule(model.base_model_prefix)
    assert model.get_input_embeddings().weight.shape == (7, 8)
    assert model.get_output_embeddings() is model.lm_head


REFUSED = {
    "mixtral": ({"model_type": "mixtral"}, "a mixture of experts"),
    "qwen2_moe": ({"model_type": "qwen2_moe", "num_experts": 60}, "a mixture of experts"),
    "qwen3_moe": ({"model_type": "qwen3_moe"}, "a mixture of experts"),
    "experts of a name that nobody knows": ({"model_type": "new", "n_routed_experts": 64}, "a mixture of experts"),
    "phi3_v": ({"model_type": "phi3_v"}, "a model of images or sound beside text"),
    "gemma3": ({"model_type": "gemma3", "text_config": {}}, "a model of images or sound beside text"),
    "llava": ({"model_type": "llava"}, "a model of images or sound beside text"),
    "an eye nobody knows": ({"model_type": "new", "vision_config": {"depth": 3}}, "a model of images or sound"),
}


@pytest.mark.parametrize(("fields", "reason"), REFUSED.values(), ids=REFUSED)
def test_other_kinds_of_model_are_refused_by_name(fields, reason, tmp_path, capsys):
    message = f"model_type '{fields['model_type']}' is {reason}.*, which is not supported; known are gpt2, llama"
    with pytest.raises(ValueError, match=message):
        classes_of(fields)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert main(["params", "--base", str(tmp_path / "config.json")]) == 2
    assert reason in capsys.readouterr().err
    (tmp_path / "model.safetensors").write_bytes(EMPTY)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        load_pretrained(tmp_path)
