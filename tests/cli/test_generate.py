"""A model writes."""

import io

from lora_np import AutoModelForCausalLM, AutoTokenizer, PeftModel
from lora_np.cli.generate import generate
from lora_np.cli.main import main
from lora_np.cli.model import load


def written(**options):
    out = io.StringIO()
    generate(out=out, **options)
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
    plain = written(base=None, adapter=None, prompt="def f", max_new_tokens=30)
    adapted = written(base=None, adapter=adapter, prompt="def f", max_new_tokens=30)
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
    monkeypatch.setattr(
        "lora_np.cli.generate.write", lambda m, t, prompt, out, **o: asked.append(prompt) or ("", 1, 1.0)
    )
    generate(chatty, None, "Hello", out=io.StringIO())
    generate(chatty, None, "Hello", raw=True, out=io.StringIO())
    assert asked == ["[user] Hello\n[assistant] ", "Hello"]
