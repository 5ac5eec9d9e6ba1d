"""Chats as training data: the ids are the template's, and of these the answers are learnt."""

import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz
from tokenizer_helpers import sentencepiece_like, trained

from lora_np import ByteTokenizer
from lora_np.models.tokenizers import PretrainedTokenizer
from lora_np.training import ExampleData, tokenize_example

CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
INST = """{% for m in messages %}
{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}
{%- elif m.role == 'system' %}{{ '<<SYS>>' + m.content }}
{%- else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
LINES = """{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token }}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}
{% endif %}{% endfor %}"""
TRIMMED = """{{ bos_token }}{% for m in messages %}{{ '<t>' + m.role + '\n' }}{{ m.content | trim }}{{ '</t>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<t>assistant\n' }}{% endif %}"""
MARKED = """{{ bos_token }}{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'assistant' %}
{%- generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""
THINKING = """{% for m in messages %}{{ '<t>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}{{ m.content + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<t>assistant\n' }}{% endif %}"""
NEXT = """{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
TEMPLATES = {"inst": INST, "lines": LINES, "trimmed": TRIMMED, "marked": MARKED, "thinking": THINKING, "next": NEXT}
BACKENDS = {
    **{name: lambda name=name: sentencepiece_like(name) for name in ("prepend", "always", "first", "never")},
    "bytes": lambda: trained(bos="<s>"),
}
CONTENTS = st.text("lo ranké😀\n", min_size=1, max_size=12).filter(str.strip)


@pytest.fixture(scope="module", params=BACKENDS)
def tokenizer(request):
    return PretrainedTokenizer(BACKENDS[request.param](), CONFIG)


@pytest.fixture(scope="module")
def twin(tokenizer, tmp_path_factory):
    """The same tokenizer in Transformers."""
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("twin")
    tokenizer.save_pretrained(directory)
    return PreTrainedTokenizerFast.from_pretrained(directory)


def talk(*contents):
    roles = itertools.cycle(("user", "assistant"))
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def answers(ids, labels, tokenizer):
    """The texts of what is learnt in one go."""
    runs = itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != -100)
    return [tokenizer.decode([i for i, _ in run]).strip() for learnt, run in runs if learnt]


@pytest.mark.parity
@pytest.mark.parametrize("name", TEMPLATES)
@settings(fuzz, max_examples=25)
@given(contents=st.lists(CONTENTS, min_size=2, max_size=6))
def test_the_ids_are_those_of_the_whole_conversation(tokenizer, twin, name, contents):
    tokenizer.chat_template = TEMPLATES[name]
    messages = talk(*contents)
    ids, labels = tokenize_example({"messages": messages}, tokenizer)
    whole = twin.apply_chat_template(messages, chat_template=TEMPLATES[name])["input_ids"]
    assert whole[: len(ids)] == ids
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))
    end = {"trimmed": "</t>", "next": ""}.get(name, "</s>")
    wanted = [content.strip() for content in contents[1::2]]
    if name == "thinking" and len(contents) % 2 == 0:
        wanted[-1] = f"<think></think>{contents[-1]}".strip()
    found = answers(ids, labels, tokenizer)
    assert [text.removesuffix(end).strip() for text in found] == wanted
    assert all(text.endswith(end) for text in found)


@pytest.mark.parametrize("name", ["inst", "lines", "trimmed", "marked", "next"])
def test_an_answer_begins_where_the_model_is_asked(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    messages = talk("low rank", "rank", "so", "lo")
    ids, labels = tokenize_example({"messages": messages}, tokenizer)
    asked = tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True)["input_ids"]
    assert ids[: len(asked)] == asked
    assert labels[len(asked) - 1] == -100
    assert labels[len(asked)] == ids[len(asked)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_end_that_is_not_learnt_is_told(name):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = TEMPLATES[name].replace("bos_token", "''").replace("eos_token", "'END'")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ExampleData([{"messages": talk("Hi", "Ho")}], tokenizer, 200, 1)
    assert [str(warning.message)[:60] for warning in caught] == (
        ["the chat template puts no end of turn behind an answer (some"] if name == "next" else []
    )


def test_a_template_that_marks_all_but_the_end_is_told():
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = MARKED.replace("bos_token", "''").replace(" + eos_token }}{% endgen", " }}{% endgen")
    with pytest.warns(UserWarning, match="no end of turn"):
        ExampleData([{"messages": talk("Hi", "Ho")}], tokenizer, 200, 1)


def test_without_a_template_it_says_what_to_do():
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    with pytest.raises(ValueError, match=r"are conversations, and this tokenizer has no chat template: choose .*give"):
        tokenize_example({"messages": talk}, ByteTokenizer())
