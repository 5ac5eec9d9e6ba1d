"""Writing, chatting, merging and counting from the command line."""

import io
import json

import numpy as np
import pytest
from lora_helpers import peft_model

from lora_np import AutoModelForCausalLM, AutoTokenizer, LoraConfig, PeftModel, get_peft_model
from lora_np.cli import main
from lora_np.commands import chat, generate, load, merge

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
    monkeypatch.setattr("lora_np.commands.AutoTokenizer.from_pretrained", lambda name: tokenizer)
    return str(directory)


def written(command, **options):
    out = io.StringIO()
    command(out=out, **options)
    return out.getvalue()


def test_generate_writes_the_prompt_and_what_the_model_goes_on_with(capsys):
    model, tokenizer = load()
    ids = tokenizer("import os\n")["input_ids"]
    expected = tokenizer.decode(model.generate(ids, max_new_tokens=30)[0])
    assert main(["generate", "import os\n", "--greedy", "--max-new-tokens", "30"]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected + "\n"
    assert captured.err.startswith("[30 tokens, ")


def test_generate_with_an_adapter_finds_its_base_and_writes_something_else(adapter):
    plain = written(generate, base=None, adapter=None, prompt="def f", max_new_tokens=30)
    adapted = written(generate, base=None, adapter=adapter, prompt="def f", max_new_tokens=30)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("tiny-python"), adapter)
    tokenizer = AutoTokenizer.from_pretrained("tiny-python")
    expected = tokenizer.decode(model.generate(tokenizer("def f")["input_ids"], max_new_tokens=30)[0])
    assert adapted == expected + "\n"
    assert adapted != plain


def test_an_empty_prompt_is_refused(capsys):
    assert main(["generate", ""]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_the_prompt_can_come_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("class A:\n"))
    assert main(["generate", "-", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("class A:\n")


def test_a_chat_model_is_asked_through_its_template_unless_raw(chatty, monkeypatch):
    asked = []
    monkeypatch.setattr("lora_np.commands.write", lambda m, t, prompt, out, **o: asked.append(prompt) or ("", 1, 1.0))
    generate(chatty, None, "Hello", out=io.StringIO())
    generate(chatty, None, "Hello", raw=True, out=io.StringIO())
    assert asked == ["[user] Hello\n[assistant] ", "Hello"]


def test_chat_keeps_the_conversation_until_it_is_reset(chatty, monkeypatch):
    asked = []
    answer = ("An answer.\n", 3, 0.1)
    monkeypatch.setattr("lora_np.commands.write", lambda m, t, prompt, out, **o: asked.append(prompt) or answer)
    lines = ["Hello\n", "\n", "And then?\n", "/reset\n", "Who?\n", "/quit\n", "never read\n"]
    chat(chatty, None, system="Be brief.", lines=lines, out=io.StringIO())
    start = "[system] Be brief.\n"
    assert asked == [
        start + "[user] Hello\n[assistant] ",
        start + "[user] Hello\n[assistant] An answer.\n[user] And then?\n[assistant] ",
        start + "[user] Who?\n[assistant] ",
    ]


def test_chat_really_answers_and_ends_with_the_input(chatty):
    text = written(chat, base=chatty, adapter=None, lines=["Hello\n", "/what\n"], max_new_tokens=8)
    answer, _, rest = text.rpartition("There is no /what")
    assert len(answer) > 1
    assert rest == "; there are /reset and /quit.\n"
    assert "> " not in answer


def test_a_model_without_a_chat_template_is_not_for_chatting(capsys):
    assert main(["chat", "--base", "tiny-python"]) == 2
    assert "has no chat template" in capsys.readouterr().err


def test_merge_writes_a_model_that_computes_what_base_and_adapter_did(tmp_path, adapter, capsys):
    out = tmp_path / "merged"
    assert main(["merge", "--adapter", adapter, "--out", str(out)]) == 0
    assert "858,880 parameters" in capsys.readouterr().out
    ids = np.arange(40).reshape(1, 40)
    together, _ = load(None, adapter)
    merged = AutoModelForCausalLM.from_pretrained(out)
    found, expected = merged(ids).logits.numpy(), together(ids).logits.numpy()
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()
    assert AutoTokenizer.from_pretrained(out).decode([72, 105]) == "Hi"


def test_an_adapted_head_that_was_tied_is_merged_too(tmp_path):
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained("tiny-python"),
        LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "head")
    merge(str(tmp_path / "head"), tmp_path / "out", say=lambda line: None)
    ids = np.arange(20).reshape(1, 20)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found, expected = merged(ids).logits.numpy(), adapted(ids).logits.numpy()
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()


def test_merge_does_not_write_over_a_model(tmp_path, adapter, capsys):
    AutoModelForCausalLM.from_pretrained("tiny-python").save_pretrained(tmp_path / "there")
    before = (tmp_path / "there" / "model.safetensors").read_bytes()
    assert main(["merge", "--adapter", adapter, "--out", str(tmp_path / "there")]) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == before


def test_an_adapter_that_names_no_base_needs_one(tmp_path, capsys):
    peft_model().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": None}))
    assert main(["generate", "x", "--adapter", str(tmp_path)]) == 2
    assert "does not say which base model it belongs to: give --base" in capsys.readouterr().err


LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def test_params_counts_from_a_config_alone(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_3_8B))
    arguments = ["--rank", "8", "16", "--target-modules", "all-linear", "--max-length", "512"]
    assert main(["params", "--base", str(path), *arguments]) == 0
    text = capsys.readouterr().out
    assert "8,030,261,248 parameters, 32 blocks, 4096 wide" in text  # Llama 3's own figures
    assert "    16     41,943,040   0.5196%     167.77 MB" in text
    assert "     8     20,971,520" in text
    assert "model.layers.*.mlp.down_proj                 32 layers of 14336 -> 4096" in text
    assert "of 1 x 512 tokens" in text


def test_params_of_the_shipped_model_and_of_parts_of_a_projection(capsys):
    assert main(["params", "--target-modules", "c_attn.q", "c_attn.v", "--rank", "4"]) == 0
    text = capsys.readouterr().out
    assert "858,880 parameters" in text
    assert "transformer.h.*.attn.c_attn.q                 4 layers of 128 -> 128" in text
    assert "     4          8,192" in text


def test_params_names_a_target_that_is_not_there(capsys):
    assert main(["params", "--target-modules", "q_proj"]) == 2
    assert "q_proj" in capsys.readouterr().err
