"""Chat templates: the text that Transformers makes of a conversation."""

import datetime
import sys

import numpy as np
import pytest
from tokenizer_helpers import trained

from lora_np import ByteTokenizer
from lora_np.models.tokenizers import PretrainedTokenizer

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = """{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system, rest = messages[0].content, messages[1:] %}
{%- else %}
    {%- set system, rest = 'Today is ' ~ strftime_now('%d %B %Y'), messages %}
{%- endif %}
[{{ system | trim }}]
{% if tools %}
Tools: {{ tools | tojson(indent=2) }} {{ tools | tojson }}
{% endif %}
{% for message in rest %}
    {% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must take turns, not ' ~ message.role) }}
    {% endif %}
    {% if message.content == 'skip' %}{% continue %}{% endif %}
    {% if message.content == 'stop' %}{% break %}{% endif %}
    {% generation %}{{ message.role | upper }}: {{ message.content }}{% endgeneration %}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}{% if shout is defined %}{{ shout }}{% endif %}
"""
LOOSE = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m | tojson }}"
    "{{ m.name }}{% if m.tool_calls is defined %}!{% endif %}{{ m.get('content', 'nothing') }}{% endfor %}"
    "{{ unk_token is defined }}{{ documents is none }}{{ dict(a=1).a }}{{ range(3) | list }}"
)
TWICE = "{{ messages[-1].content }}, that is {{ messages[-1].content }}"
TURNS = [{"role": "user", "content": "Hi <b> & 'ü'"}, {"role": "assistant", "content": "Hello\n"}]
CONVERSATIONS = [
    TURNS[:1],
    TURNS,
    [{"role": "system", "content": " Be brief. "}, *TURNS, {"role": "user", "content": "skip"}],
    [*TURNS, {"role": "user", "content": "stop"}, {"role": "assistant", "content": "never seen"}],
]
TOOL = {"type": "function", "function": {"name": "größe", "parameters": {"b": 1, "a": [True, None]}}}


@pytest.fixture(scope="module")
def tokenizer():
    return PretrainedTokenizer(trained(bos="<s>"), {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.fixture(scope="module")
def twin(tokenizer, tmp_path_factory):
    """The same tokenizer in Transformers."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("twin")
    tokenizer.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def both(tokenizer, twin, template, messages, **options):
    """A conversation's text here and in Transformers, which also agree on its ids."""
    tokenizer.chat_template = twin.chat_template = template
    for form in ({}, {"return_tensors": "np"}):
        ids = tokenizer.apply_chat_template(messages, **options, **form)
        expected = twin.apply_chat_template(messages, **options, **form)
        for name in ("input_ids", "attention_mask"):
            assert type(ids[name]) is type(expected[name])
            np.testing.assert_array_equal(ids[name], expected[name])
    options |= {"tokenize": False}
    return tokenizer.apply_chat_template(messages, **options), twin.apply_chat_template(messages, **options)


@pytest.mark.parity
@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("template", [CHATML, STRICT, LOOSE], ids=["chatml", "strict", "loose"])
def test_a_conversation_is_rendered_as_in_transformers(tokenizer, twin, template, messages, add_generation_prompt):
    found, expected = both(tokenizer, twin, template, messages, add_generation_prompt=add_generation_prompt)
    assert found == expected
    assert messages[0]["content"].strip() in found


@pytest.mark.parity
def test_every_special_token_reaches_the_template(tokenizer, twin):
    template = "{{ sep_token }}{{ cls_token }}{{ mask_token }}{{ bos_token }}{{ unk_token }}"
    for one in (tokenizer, twin):
        one.sep_token, one.cls_token, one.mask_token = "</s>", "<s>", "<unk>"
    try:
        found, expected = both(tokenizer, twin, template, TURNS)
    finally:
        for one in (tokenizer, twin):
            one.sep_token = one.cls_token = one.mask_token = None
    assert found == expected


@pytest.mark.parity
def test_tools_and_variables_reach_the_template(tokenizer, twin):
    found, expected = both(tokenizer, twin, STRICT, TURNS, tools=[TOOL], shout="LOUD", bos_token="<begin>")
    assert found == expected
    assert found.startswith("<begin>")
    assert "größe" in found
    assert "LOUD" in found


@pytest.mark.parity
@pytest.mark.parametrize(
    ("template", "options"),
    [
        (CHATML, {"continue_final_message": True}),
        (CHATML, {"continue_final_message": "content"}),
        (STRICT, {"continue_final_message": True}),
        (STRICT, {"chat_template": CHATML}),
        (STRICT, {"return_dict": False}),
        (STRICT, {"truncation": True, "max_length": 5}),
        (STRICT, {"padding": "max_length", "max_length": 200, "tokenizer_kwargs": {"padding_side": "left"}}),
        (STRICT, {"return_assistant_tokens_mask": True}),
        (STRICT, {"return_assistant_tokens_mask": True, "return_tensors": "np"}),
        (STRICT, {"return_assistant_tokens_mask": True, "truncation": True, "max_length": 30}),
        ("{{ documents[0].title }}{{ messages[0].content }}", {"documents": [{"title": "T", "text": "x"}]}),
    ],
)
def test_options_do_what_they_do_in_transformers(tokenizer, twin, template, options):
    tokenizer.chat_template = twin.chat_template = template
    tokenizer.pad_token, twin.pad_token = "<pad>", "<pad>"
    several = [TURNS, [*TURNS, *TURNS]]
    for conversation in (TURNS, several) if "return_tensors" not in options else (TURNS,):
        found = tokenizer.apply_chat_template(conversation, **options)
        expected = twin.apply_chat_template(conversation, **options)
        assert type(found) is list or found.keys() == expected.keys()
        for name in found if isinstance(found, dict) else [slice(None)]:
            np.testing.assert_equal(found[name], expected[name])
    shown = {"documents": options.get("documents"), "tokenize": False}
    assert tokenizer.apply_chat_template(several, **shown) == twin.apply_chat_template(several, **shown)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nonsense": 1}, TypeError, "'nonsense' is neither an option .* reads add_generation_prompt, messages"),
        ({"shout": "x"}, TypeError, "'shout' is neither an option of apply_chat_template nor a variable"),
        ({"return_tensors": "tf"}, ValueError, "return_tensors='tf': this package has lists"),
        ({"max_length": 0, "truncation": True}, ValueError, "max_length must be a positive integer, not 0"),
        ({"return_assistant_tokens_mask": True}, ValueError, "does not mark with .* generation"),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, ValueError, "needs tokenize=True"),
        ({"continue_final_message": True, "add_generation_prompt": True}, ValueError, "goes with neither"),
        ({"continue_final_message": "thinking"}, ValueError, "the last message has no text 'thinking'"),
        ({"chat_template": "{{ 1 }}", "continue_final_message": True}, ValueError, "does not show the last message's"),
        ({"chat_template": TWICE, "continue_final_message": True}, ValueError, "shows the last message's .* 2 times"),
    ],
)
def test_what_is_not_known_is_refused_not_swallowed(options, error, message):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = CHATML
    with pytest.raises(error, match=message):
        tokenizer.apply_chat_template(TURNS, **options)


@pytest.mark.parity
def test_a_field_that_is_none_is_left_out(tokenizer, twin):
    messages = [{"role": "assistant", "content": None, "tool_calls": [TOOL], "name": None}]
    found, expected = both(tokenizer, twin, LOOSE, messages)
    assert found == expected
    assert "!nothing" in found


@pytest.mark.parity
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_smollm2s_own_template(smollm2, smollm2_saved, messages):
    from transformers import AutoTokenizer

    twin = AutoTokenizer.from_pretrained(smollm2_saved)
    found, expected = both(smollm2, twin, smollm2.chat_template, messages, add_generation_prompt=True)
    assert found == expected
    assert found.startswith("<|im_start|>system")
    assert found.endswith("<|im_start|>assistant\n")
    ids = smollm2.apply_chat_template(messages)["input_ids"]
    assert ids.count(smollm2.bos_token_id) == len(messages) + (messages[0]["role"] != "system")


def test_the_date_is_todays():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y') }}"
    years = {str(datetime.date.today().year + n) for n in (-1, 0, 1)}
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) in years


def test_no_special_tokens_are_added_to_those_of_the_template(tokenizer):
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "low"}])["input_ids"]
    assert ids == [tokenizer.bos_token_id, *tokenizer.encode("low", add_special_tokens=False)]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "must be a list of .*, not str"),
        (None, "not NoneType"),
        ([], "not an empty one"),
        ({"role": "user", "content": "Hi"}, "not dict"),
        (["Hi"], "message 0 must be a dict .* not str"),
        ([*TURNS, {"content": "Hi"}], r"message 2 has no 'role' .* its keys are \['content'\]"),
        ([{"role": 3, "content": "Hi"}], "message 0 has no 'role'"),
        ([{"role": "user"}], r"message 0 \(user\) has no 'content'"),
        ([{"role": "user", "content": None}], r"message 0 \(user\) has no 'content'"),
        ([{"role": "user", "content": np.ones(2)}], "messages must be made of strings, .* ndarray"),
    ],
)
def test_messages_of_another_form_are_refused(messages, message):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = CHATML
    with pytest.raises(ValueError, match=message):
        tokenizer.apply_chat_template(messages)


def test_a_tool_that_is_no_schema_is_refused():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = CHATML
    with pytest.raises(ValueError, match=r"tools must be made of strings, .* function"):
        tokenizer.apply_chat_template(TURNS, tools=[lambda x: x])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only one turn') }}", "cannot render these messages: only one turn"),
        ("{% for %}", "has an error in line 1"),
        ("\n{% if x %}", "has an error in line 2"),
        ("{{ messages[0].content + 3 }}", "cannot render these messages"),
        ("{{ nobody.name }}", "'nobody' is undefined"),
        ("{{ messages.append(3) }}", "cannot render .* unsafe"),
        ("{{ ''.__class__.__mro__ }}", "cannot render .* unsafe"),
        ("{{ messages.__init__.__globals__ }}", "cannot render .* unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "cannot render .* too big"),
    ],
)
def test_a_template_that_fails_or_breaks_out_is_refused(template, message):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        tokenizer.apply_chat_template(TURNS, tokenize=False)


def test_without_a_template_there_is_no_chat():
    with pytest.raises(ValueError, match="this tokenizer has no chat template"):
        ByteTokenizer().apply_chat_template(TURNS)


def test_the_messages_are_not_changed():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = "{% for m in messages %}{% set _ = m.update({'content': 'x'}) %}{% endfor %}"
    messages = [{"role": "user", "content": "Hi", "name": None}]
    with pytest.raises(ValueError, match="unsafe"):
        tokenizer.apply_chat_template(messages)
    assert messages == [{"role": "user", "content": "Hi", "name": None}]


def test_without_jinja_one_sentence_says_what_brings_it(monkeypatch):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = CHATML
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError) as error:
        tokenizer.apply_chat_template(TURNS)
    expected = "a chat template needs the package jinja2: pip install -e '.[text]' (or pip install jinja2)"
    assert str(error.value) == expected
