"""A model writes."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from lora_helpers import tiny_model
from tokenizer_helpers import sentencepiece_like

from lora_np import AutoModelForCausalLM, AutoTokenizer, PeftModel
from lora_np.cli.generate import generate
from lora_np.cli.main import main
from lora_np.cli.model import load
from lora_np.cli.writing import write
from lora_np.models.tokenizers import PretrainedTokenizer


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


def test_a_text_ends_behind_a_stop_and_unlikely_tokens_are_left_out(capsys):
    asked = ["generate", "import os\n", "--max-new-tokens", "60"]
    assert main([*asked, "--greedy"]) == 0
    whole = capsys.readouterr().out
    stop = whole[len("import os\n") + 8 :][:2]
    assert main([*asked, "--greedy", "--stop", "never this", "--stop", stop]) == 0
    assert capsys.readouterr().out == whole[: whole.index(stop, len("import os\n")) + 2] + "\n"
    assert main([*asked, "--min-p", "1"]) == 0  # only the likeliest is as likely as the likeliest
    assert capsys.readouterr().out == whole


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


class Says:
    """A model that writes given ids, and keeps what it was asked."""

    def __init__(self, ids):
        self.ids, self.config = ids, SimpleNamespace(vocab_size=1000)

    def stream(self, ids, **options):
        self.asked = ids
        return (np.array([i]) for i in self.ids)


@pytest.fixture
def spaced():
    """A tokenizer of Llama 2's kind, with a chat template."""
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ bos_token + messages[0].content }}"}
    return PretrainedTokenizer(sentencepiece_like(), config)


def test_what_is_written_behind_a_prompt_keeps_its_space_and_the_prompt_its_beginning(spaced):
    out, model = io.StringIO("The rank is"), Says([*spaced.encode_continuation(" low é"), spaced.eos_token_id])
    out.seek(0, io.SEEK_END)
    text, tokens, _ = write(model, spaced, "The rank is", out)
    assert (out.getvalue(), text, tokens) == ("The rank is low é", " low é", len(model.ids))
    assert model.asked == spaced.encode("The rank is")
    assert model.asked[0] == spaced.bos_token_id, "as training put it there"


def test_a_chats_prompt_has_its_special_tokens_already(spaced):
    model = Says(spaced.encode_continuation(" low"))
    text, _, _ = write(model, spaced, "<s>Hi", io.StringIO(), templated=True)
    assert model.asked.count(spaced.bos_token_id) == 1
    assert text == "low"


@pytest.mark.parametrize("raw", [False, True])
def test_raw_feeds_what_training_put_there(spaced, raw, monkeypatch):
    model = Says([])
    monkeypatch.setattr("lora_np.cli.generate.load", lambda *a: (model, spaced))
    generate(None, None, "low", raw=raw, out=io.StringIO())
    assert model.asked == (spaced.encode("low") if raw else spaced.encode("<s>low", add_special_tokens=False))


def test_an_id_in_the_padded_part_of_the_vocabulary_is_no_text(spaced):
    model = tiny_model(vocab_size=spaced.vocab_size + 50, n_positions=64)
    out = io.StringIO()
    write(model, spaced, "low", out, do_sample=True, temperature=5.0, max_new_tokens=40, seed=1)
    said = Says([spaced.vocab_size + 7, *spaced.encode_continuation(" low"), spaced.vocab_size])
    assert write(said, spaced, "low", io.StringIO())[0] == " low"


def test_a_prompt_with_a_token_that_the_model_has_not_is_refused(spaced, tmp_path, capsys):
    highest = max(spaced.encode("lower"))
    token = spaced.convert_ids_to_tokens(highest)
    tiny_model(vocab_size=highest).save_pretrained(tmp_path)
    spaced.save_pretrained(tmp_path)
    assert main(["generate", "--raw", "--base", str(tmp_path), "lower"]) == 2
    assert f"the prompt has its token {token!r} with the id {highest}" in capsys.readouterr().err
