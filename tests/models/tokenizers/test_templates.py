"""Several chat templates of one tokenizer: found where Transformers finds them, and chosen as it chooses."""

import json

import pytest
from tokenizer_helpers import trained

from lora_np.models.tokenizers import PretrainedTokenizer, load_tokenizer
from lora_np.models.tokenizers.templates import DEFAULT, MORE

SHOWN = {name: f"{name}: {{{{ messages[0].content }}}}" for name in (DEFAULT, "tool_use", "rag")}
NO_DEFAULT = {"rag": SHOWN["rag"]}
CHAT = [{"role": "user", "content": "low"}]
CHOICES = [{}, {"chat_template": "rag"}, {"tools": [{"name": "f"}]}, {"chat_template": "{{ messages[0].role }}"}]
CHOICES += [{"chat_template": DEFAULT, "tools": [{"name": "f"}]}]


def write(directory, config, files):
    PretrainedTokenizer(trained(), {}).save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": config}))
    (directory / MORE).mkdir()
    for name, source in files.items():
        place = directory / "chat_template.jinja" if name == DEFAULT else directory / MORE / f"{name}.jinja"
        place.write_text(source)


def listed(templates):
    return [{"name": name, "template": source} for name, source in templates.items()]


def shown(tokenizer):
    return [tokenizer.apply_chat_template(CHAT, tokenize=False, **options) for options in CHOICES]


PLACES = [(listed(SHOWN), {}), (None, SHOWN), ("x", SHOWN), ({DEFAULT: "y", **SHOWN}, {})]


@pytest.mark.parity
@pytest.mark.parametrize(("config", "files"), PLACES)
def test_transformers_chooses_the_same(tmp_path, config, files):
    from transformers import AutoTokenizer

    write(tmp_path, config, files)
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert shown(ours) == shown(theirs)
    for options in CHOICES[:3]:
        assert ours.get_chat_template(**options) == theirs.get_chat_template(**options)
    ours.save_pretrained(tmp_path)
    assert shown(load_tokenizer(tmp_path)) == shown(AutoTokenizer.from_pretrained(tmp_path)) == shown(theirs)


@pytest.mark.parametrize(("config", "files"), PLACES[:2])
def test_one_is_chosen_by_its_name_or_for_tools(tmp_path, config, files):
    write(tmp_path, config, files)
    expected = ["default: low", "rag: low", "tool_use: low", "user", "default: low"]
    assert shown(load_tokenizer(tmp_path)) == expected


@pytest.mark.parametrize("config", [None, SHOWN[DEFAULT]])
def test_without_a_default_the_names_are_told(tmp_path, config):
    write(tmp_path, config, NO_DEFAULT)
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="several chat templates and no default: give chat_template='rag'"):
        tokenizer.apply_chat_template(CHAT)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, chat_template="rag") == "rag: low"


def test_saving_leaves_nothing_of_an_older_tokenizer(tmp_path):
    write(tmp_path, None, SHOWN)
    new = PretrainedTokenizer(trained(), {"chat_template": "new"})
    new.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).chat_template == "new"
