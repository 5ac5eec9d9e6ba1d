"""Talking to a model, line by line."""

import io

from lora_np.cli.chat import chat
from lora_np.cli.main import main


def test_chat_keeps_the_conversation_until_it_is_reset(chatty, monkeypatch):
    asked = []
    answer = ("An answer.\n", 3, 0.1)
    monkeypatch.setattr("lora_np.cli.chat.write", lambda m, t, prompt, out, **o: asked.append(prompt) or answer)
    lines = ["Hello\n", "\n", "And then?\n", "/reset\n", "Who?\n", "/quit\n", "never read\n"]
    chat(chatty, None, system="Be brief.", lines=lines, out=io.StringIO())
    start = "[system] Be brief.\n"
    assert asked == [
        start + "[user] Hello\n[assistant] ",
        start + "[user] Hello\n[assistant] An answer.\n[user] And then?\n[assistant] ",
        start + "[user] Who?\n[assistant] ",
    ]


def test_chat_really_answers_and_ends_with_the_input(chatty):
    out = io.StringIO()
    chat(base=chatty, adapter=None, lines=["Hello\n", "/what\n"], out=out, max_new_tokens=8)
    text = out.getvalue()
    answer, _, rest = text.rpartition("There is no /what")
    assert len(answer) > 1
    assert rest == "; there are /reset and /quit.\n"
    assert "> " not in answer


def test_bytes_that_are_no_text_end_no_talk(chatty, monkeypatch):
    said = io.TextIOWrapper(io.BytesIO(b"caf\xc3\nHello\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", said)
    asked = []
    monkeypatch.setattr(
        "lora_np.cli.chat.write", lambda m, t, prompt, out, **o: asked.append(prompt) or ("Yes", 1, 0.1)
    )
    chat(chatty, None, out=io.StringIO())
    assert asked[1].count("caf\ufffd") == asked[1].count("Hello") == 1


def test_a_model_without_a_chat_template_is_not_for_chatting(capsys):
    assert main(["chat", "--base", "tiny-python"]) == 2
    assert "has no chat template" in capsys.readouterr().err
