"""The table of architectures: what one entry leads to, everywhere."""

import pytest

from lora_np import nn
from lora_np.models.architectures import ARCHITECTURES


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
