"""An adapter of the shipped model, and a model that can be asked through a chat template."""

import pytest

from lora_np import AutoModelForCausalLM, AutoTokenizer, LoraConfig, get_peft_model

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture
def adapter(tmp_path):
    """An adapter of the shipped model that changes what it writes."""
    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False, lora_alpha=32)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.fixture
def chatty(tmp_path, monkeypatch):
    """The shipped model with a chat template: what it says is nonsense, but it is asked in the right way."""
    directory = tmp_path / "chatty"
    AutoModelForCausalLM.from_pretrained("tiny-python").save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained("tiny-python")
    tokenizer.chat_template = TEMPLATE
    monkeypatch.setattr("lora_np.cli.model.AutoTokenizer.from_pretrained", lambda name: tokenizer)
    return str(directory)
