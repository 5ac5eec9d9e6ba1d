"""Tokenizers of model directories: as Transformers loads them, saved again, damaged."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz
from tokenizer_helpers import sentencepiece_like, texts, trained
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import lora_np
from lora_np.models.tokenizers import PretrainedTokenizer, load_tokenizer

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
FIELDS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
OBJECTS = {name: {"__type": "AddedToken", "content": token, **FIELDS} for name, token in NAMED.items()}
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
PREFIXES = ("prepend", "first", "always", "never")
TEXT = "Hello low <s> rank\n<think>12  34</s> <|im_end|> <new>"


def write(directory, backend, tokenizer_config=None, **others):
    """A tokenizer's directory; `others`: further JSON files, by their names without the suffix."""
    backend.save(str(directory / "tokenizer.json"))
    for name, value in {"tokenizer_config": tokenizer_config, **others}.items():
        if value is not None:
            (directory / f"{name}.json").write_text(json.dumps(value))


def strip(backend):
    """A backend of which no token is an added one."""
    fields = json.loads(backend.to_str())
    return Tokenizer.from_str(json.dumps({**fields, "added_tokens": [], "post_processor": None}))


def padded(backend):
    backend.enable_padding(direction="left", pad_token="<pad>", pad_id=backend.token_to_id("<pad>"), length=20)
    backend.enable_truncation(max_length=3)
    return backend


def word_level():
    backend = Tokenizer(
        models.WordLevel({"hello": 0, "low": 1, "<unk>": 2, "<s>": 3, ".": 4, "'": 5}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.normalizer = normalizers.Lowercase()
    backend.add_special_tokens(["<unk>", "<s>"])
    return backend


def word_pieces():
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    backend.train_from_iterator(["hello low rank world. don't, we've!"], trainer)
    return backend


def spaced():
    backend = trained(special=("<|endoftext|>",))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return backend


DECODER = {"3": {"content": "<pad>", **FIELDS, "special": True}}
NEW = {"400": {"content": "<new>", **FIELDS, "special": True}, "401": {"content": "<think>", **FIELDS}}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
CASES = {
    "names": (trained, {**CLASS, **NAMED}, {}),
    "no config": (trained, None, {}),
    "only a class": (trained, CLASS, {}),
    "a token before each text": (lambda: trained(bos="<s>"), {**CLASS, **NAMED}, {}),
    "objects": (trained, {**CLASS, **OBJECTS}, {}),
    "a map of its own": (trained, CLASS, {"special_tokens_map": NAMED}),
    "objects in a map": (trained, {**CLASS, "eos_token": "<s>"}, {"special_tokens_map": OBJECTS}),
    "a map that does not count": (trained, {**CLASS, "added_tokens_decoder": DECODER}, {"special_tokens_map": NAMED}),
    "added tokens": (trained, {**CLASS, **NAMED, "added_tokens_decoder": {**DECODER, **NEW}}, {}),
    "more special tokens": (trained, {**CLASS, **NAMED, "additional_special_tokens": ["<|im_end|>", "<new>"]}, {}),
    "extra special tokens": (trained, {**CLASS, **NAMED, "extra_special_tokens": ["<|im_end|>", "<new>"]}, {}),
    "new named tokens": (trained, {**CLASS, "eos_token": "<|im_end|>", "pad_token": "<new>"}, {}),
    "nothing added yet": (lambda: strip(trained()), {**CLASS, **NAMED}, {}),
    "padding and truncation": (lambda: padded(trained()), CLASS, {}),
    "padding on the left": (trained, {**CLASS, **NAMED, "padding_side": "left"}, {}),
    "a rule that is in the file": (lambda: trained(bos="<s>"), {**CLASS, **NAMED, "add_bos_token": False}, {}),
    "a rule that is not": (trained, {**CLASS, **NAMED, "add_bos_token": True, "add_eos_token": True}, {}),
    "no tokens by name": (trained, {**CLASS, **dict.fromkeys(NAMED)}, {}),
    "gpt-2 by its class": (lambda: trained(special=("<|endoftext|>",)), {"tokenizer_class": "GPT2Tokenizer"}, {}),
    "gpt-2 by its model": (lambda: trained(special=("<|endoftext|>",)), {}, {"config": {"model_type": "gpt2"}}),
    "llama by its class": (sentencepiece_like, {"tokenizer_class": "LlamaTokenizer"}, {}),
    "mistral, which says llama": (sentencepiece_like, LLAMA, {"config": {"model_type": "mistral"}}),
    "phi-3, which says llama": (sentencepiece_like, LLAMA, {"config": {"model_type": "phi3"}}),
    "olmo 2, which says gpt-2": (trained, {"tokenizer_class": "GPT2Tokenizer"}, {"config": {"model_type": "olmo2"}}),
    "gpt-2 with a space": (
        lambda: trained(special=("<|endoftext|>",)),
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        {},
    ),
    "gpt-2 whose space does not count": (spaced, {"tokenizer_class": "GPT2Tokenizer"}, {}),
    "a model of no known type": (trained, {**CLASS, **NAMED}, {"config": {"model_type": "unheard-of"}}),
    "words with spaces": (word_level, {**CLASS, "clean_up_tokenization_spaces": True, "unk_token": "<unk>"}, {}),
    "word pieces, cleaned up": (word_pieces, {**CLASS, **NAMED, "clean_up_tokenization_spaces": True}, {}),
    "pairs, not cleaned up": (trained, {**CLASS, **NAMED, "clean_up_tokenization_spaces": True}, {}),
    "words": (word_level, {**CLASS, "unk_token": "<unk>", "pad_token": "<s>"}, {}),
    "word pieces": (word_pieces, {**CLASS, **NAMED}, {}),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, tmp_path_factory):
    """A directory, its tokenizer here, here once more after saving, and in Transformers."""
    from transformers import AutoTokenizer

    build, config, others = CASES[request.param]
    directory = tmp_path_factory.mktemp("tokenizer")
    write(directory, build(), config, **others)
    found, expected = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    found.save_pretrained(directory / "saved")
    again = AutoTokenizer.from_pretrained(directory / "saved")
    return found, load_tokenizer(directory / "saved"), expected, again


@pytest.mark.parity
class TestTransformers:
    @settings(fuzz, max_examples=60)
    @given(text=st.just(TEXT) | texts(), skip=st.booleans(), special=st.booleans())
    def test_equal_ids_and_texts(self, case, text, skip, special):
        first, *others = case
        ids = first.encode(text, add_special_tokens=special)
        decoded = first.decode(ids, skip_special_tokens=skip)
        for other in others:
            assert other.encode(text, add_special_tokens=special) == ids
            assert other.decode(ids, skip_special_tokens=skip) == decoded

    def test_equal_special_tokens(self, case):
        found, loaded, expected, again = case
        for name in ("bos", "eos", "unk", "pad"):
            for attribute in (f"{name}_token", f"{name}_token_id"):
                values = [getattr(tokenizer, attribute) for tokenizer in case]
                assert values == [values[0]] * 4, attribute
        assert found.get_vocab() == loaded.get_vocab() == expected.get_vocab() == again.get_vocab()
        assert len(found) == len(expected)
        assert found.vocab_size == expected.vocab_size
        assert found.all_special_ids == loaded.all_special_ids
        assert set(found.all_special_ids) == set(again.all_special_ids)
        assert set(expected.all_special_ids) <= set(found.all_special_ids)  # they count named ones only
        assert found.clean_up_tokenization_spaces == expected.clean_up_tokenization_spaces
        assert found.padding_side == loaded.padding_side == expected.padding_side == again.padding_side

    @pytest.mark.parametrize(
        "name", [None, "GPTNeoXTokenizerFast", "Qwen2Tokenizer", "GemmaTokenizer", *CLASS.values()]
    )
    @pytest.mark.parametrize("model", [None, "gpt_neox", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "llama"])
    def test_special_tokens_that_only_the_class_says(self, tmp_path, name, model):
        from transformers import AutoTokenizer

        config = {"mask_token": None} if name is None else {"tokenizer_class": name, "mask_token": None}
        backend = trained(special=("<|endoftext|>", "<|padding|>", "<unk>", "<bos>", "<eos>", "<pad>"))
        write(tmp_path, backend, config, **({} if model is None else {"config": {"model_type": model}}))
        found, expected = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
        assert found.special_tokens_map == expected.special_tokens_map
        assert found.padding_side == expected.padding_side
        assert len(found) == len(expected)

    @pytest.mark.parametrize("options", [{"add_prefix_space": True}, {"add_prefix_space": False}, {"legacy": True}])
    @pytest.mark.parametrize("name", ["GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer", *CLASS.values()])
    def test_spaces_that_a_call_asks_for(self, tmp_path, name, options):
        from transformers import AutoTokenizer

        backend = sentencepiece_like() if name == "LlamaTokenizer" else trained(special=("<|endoftext|>", "<s>"))
        write(tmp_path, backend, {"tokenizer_class": name, "bos_token": "<s>"})
        found = lora_np.AutoTokenizer.from_pretrained(tmp_path, **options)
        expected = AutoTokenizer.from_pretrained(tmp_path, **options)
        for text in ("low", " low", "low <s>low <s> low"):
            assert found.encode(text) == expected.encode(text)
            assert found.decode(found.encode(text)) == expected.decode(expected.encode(text))

    def test_what_is_cleaned_up_may_be_said(self, case):
        first = case[0]
        ids = [[first.encode("hello . don't ' low", add_special_tokens=False)] * 2, first.encode("hello, we've!")]
        for wanted in (True, False, None):
            for one in ids:
                texts = [tokenizer.decode(one, clean_up_tokenization_spaces=wanted) for tokenizer in case]
                assert texts == [texts[0]] * 4
                several = [tokenizer.batch_decode(ids[0], clean_up_tokenization_spaces=wanted) for tokenizer in case]
                assert several == [several[0]] * 4

    @pytest.mark.parametrize(
        "options",
        [
            {"padding": True},
            {"padding": True, "padding_side": "left"},
            {"padding": "max_length", "max_length": 12, "truncation": True},
            {"truncation": True, "max_length": 4, "padding": True},
            {"truncation": True, "max_length": 3, "padding": True, "add_special_tokens": False},
        ],
    )
    def test_equal_batches(self, case, options):
        found, _, expected, _ = case
        if expected.pad_token is None:
            expected.pad_token = expected.eos_token  # as here, where there is one
        batch = ["Hello low rank", "low", ""]
        if expected.pad_token is None:
            with pytest.raises(ValueError, match="neither a pad_token nor"):
                found(batch, **options)
            return
        theirs = expected(batch, return_tensors="np", **options)
        for name, array in found(batch, return_tensors="np", **options).items():
            np.testing.assert_array_equal(array, theirs[name])
            assert array.dtype == np.int64

    @pytest.mark.parametrize("config", [None, {"tokenizer_class": "GPT2Tokenizer"}, {"add_bos_token": True}])
    @settings(fuzz, max_examples=60)
    @given(text=texts())
    def test_vocabulary_and_merges_of_gpt2(self, older, config, text):
        _, twins = older
        found, expected = twins[str(config)]
        assert found.encode(text) == expected.encode(text)
        assert found.decode(found.encode(text)) == expected.decode(expected.encode(text))
        assert found.decode(found.encode(text), skip_special_tokens=True) == text.replace("<|endoftext|>", "")
        for name in ("bos", "eos", "unk", "pad"):
            assert getattr(found, f"{name}_token_id") == getattr(expected, f"{name}_token_id")
        assert found.backend.token_to_id("<added>") == expected.convert_tokens_to_ids("<added>")


def write_older(directory, config=None):
    """vocab.json, merges.txt and added_tokens.json, as of a GPT-2 from before tokenizer.json."""
    directory.mkdir(exist_ok=True)
    backend = trained(special=("<|endoftext|>",))
    backend.model.save(str(directory))
    (directory / "added_tokens.json").write_text(json.dumps({"<added>": backend.get_vocab_size()}))
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    from transformers import AutoTokenizer

    directory, twins = tmp_path_factory.mktemp("older"), {}
    for i, config in enumerate([None, {"tokenizer_class": "GPT2Tokenizer"}, {"add_bos_token": True}]):
        write_older(directory / str(i), config)
        found = load_tokenizer(directory / str(i))
        twins[str(config)] = found, AutoTokenizer.from_pretrained(directory / str(i))
    return directory, twins


def test_a_prefix_space_is_as_the_config_says(tmp_path):
    for add in (False, True):
        write_older(tmp_path / str(add), {"add_prefix_space": add})
        tokenizer = load_tokenizer(tmp_path / str(add))
        assert tokenizer.decode(tokenizer.encode("low")) == (" low" if add else "low")


class TestChatTemplates:
    @pytest.mark.parametrize(
        ("config", "file", "expected"),
        [
            ({}, None, None),
            ({"chat_template": None}, None, None),
            ({"chat_template": "{{ 1 }}"}, None, "{{ 1 }}"),
            ({"chat_template": "{{ 1 }}"}, "{{ 2 }}\n", "{{ 2 }}\n"),
            ({}, "{{ 2 }}", "{{ 2 }}"),
            ({"chat_template": [{"name": "default", "template": "1"}]}, None, "1"),
            ({"chat_template": {"default": "1"}}, None, "1"),
        ],
    )
    def test_where_it_is_found(self, tmp_path, config, file, expected):
        write(tmp_path, trained(), config)
        if file is not None:
            (tmp_path / "chat_template.jinja").write_text(file)
        assert load_tokenizer(tmp_path).chat_template == expected

    @pytest.mark.parametrize("template", [None, "{{ 'new' }}"])
    def test_a_saved_one_goes_before_an_older_file(self, tmp_path, template):
        (tmp_path / "chat_template.jinja").write_text("{{ 'old' }}")
        tokenizer = PretrainedTokenizer(trained(), {})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).chat_template == template

    def test_one_that_is_not_in_utf_8_is_refused(self, tmp_path):
        write(tmp_path, trained())
        (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
        with pytest.raises(ValueError, match=r"chat_template\.jinja is not a text in UTF-8"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize("template", [3, ["x"], {"default": 3}, [{"name": "default", "template": 3}]])
    def test_one_that_is_no_text_is_refused(self, tmp_path, template):
        write(tmp_path, trained(), {"chat_template": template})
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template should be a text"):
            load_tokenizer(tmp_path)


class TestSpecialTokens:
    def test_they_can_be_changed(self, tmp_path):
        tokenizer = PretrainedTokenizer(trained(), {"eos_token": "</s>"})
        tokenizer.pad_token = tokenizer.eos_token  # what many scripts do
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        tokenizer.pad_token_id = tokenizer.convert_tokens_to_ids("<pad>")
        assert tokenizer.pad_token == "<pad>"
        tokenizer.eos_token = None
        assert tokenizer.eos_token_id is None
        tokenizer.save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).pad_token == "<pad>"
        assert load_tokenizer(tmp_path).eos_token is None

    def test_an_unknown_one_is_refused(self):
        tokenizer = PretrainedTokenizer(trained(), {})
        with pytest.raises(ValueError, match=r"pad_token = '\[PAD\]' is not in the vocabulary"):
            tokenizer.pad_token = "[PAD]"
        with pytest.raises(ValueError, match="no token 9999"):
            tokenizer.pad_token_id = 9999
        with pytest.raises(ValueError, match=r"bos_token = '\[BOS\]' is not in the vocabulary"):
            PretrainedTokenizer(trained(), {"bos_token": "[BOS]"})

    def test_what_the_config_says_beside_them_is_kept(self, tmp_path):
        config = {**CLASS, **NAMED, "model_max_length": 77, "auto_map": {"AutoTokenizer": "x.y"}}
        write(tmp_path, trained(), config)
        load_tokenizer(tmp_path).save_pretrained(tmp_path / "new" / "folder")
        saved = json.loads((tmp_path / "new" / "folder" / "tokenizer_config.json").read_text())
        assert saved["model_max_length"] == 77
        assert "auto_map" not in saved
        assert {name: saved[name] for name in NAMED} == NAMED

    def test_a_gap_in_the_ids_counts_for_the_size(self):
        backend = Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
        tokenizer = PretrainedTokenizer(backend, {})
        assert len(tokenizer) == 8
        assert tokenizer.convert_ids_to_tokens([0, 3, 7]) == ["a", None, "b"]


def refused_or_harmless(directory):
    """Loading gives a tokenizer that works, or a ValueError with the directory's name."""
    try:
        tokenizer = load_tokenizer(directory)
    except ValueError as error:
        message = str(error)
    else:
        tokenizer.encode("Hello")
        return
    assert str(directory) in message


@pytest.mark.parametrize("quote", ["a", '"', "\\", "é"])
def test_a_token_that_is_too_long_is_refused_before_the_library_reads_it(tmp_path, quote):
    backend = trained()
    backend.add_special_tokens([quote * 1024])
    write(tmp_path, backend)
    assert load_tokenizer(tmp_path).encode(quote * 1024) == [backend.token_to_id(quote * 1024)]
    backend.add_special_tokens([quote * 1025])
    write(tmp_path, backend)
    with pytest.raises(ValueError, match=r"tokenizer\.json .* more than 1024 characters"):
        load_tokenizer(tmp_path)
    write(tmp_path, trained(), special_tokens_map={"eos_token": quote * 1025})
    with pytest.raises(ValueError, match=r"a token has 1025 characters; at most 1024"):
        load_tokenizer(tmp_path)


class TestDamage:
    @pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": "LlamaTokenizer"}])
    def test_a_directory_without_a_tokenizer_says_what_is_missing(self, tmp_path, config):
        if config is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        says = {"None": "does not exist", "{}": "names no tokenizer_class"}.get(str(config), "names 'LlamaTokenizer'")
        with pytest.raises(FileNotFoundError, match=rf"neither tokenizer\.json .* tokenizer_config\.json {says}"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize("text", ["[]", "", "{", "3"])
    def test_a_config_that_is_no_json_object_is_refused(self, tmp_path, text):
        write(tmp_path, trained())
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"model": {"type": "BPE"}}', b'{"version": "9"}']
    )
    def test_a_tokenizer_json_that_is_none_is_refused(self, tmp_path, content):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a readable tokenizer\.json"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize(
        "config",
        [
            {"eos_token": 3},
            {"eos_token": ["</s>"]},
            {"eos_token": {"text": "</s>"}},
            {"added_tokens_decoder": [1]},
            {"added_tokens_decoder": {"x": {"content": "y"}}},
            {"added_tokens_decoder": {"3": 4}},
            {"additional_special_tokens": 3},
            {"additional_special_tokens": [3]},
            {"padding_side": "middle"},
        ],
    )
    def test_special_tokens_of_another_form_are_refused(self, tmp_path, config):
        write(tmp_path, trained(), config)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("vocab.json", "[]", "should hold a JSON object"),
            ("vocab.json", '{"a": "b"}', "should give every token an id"),
            ("vocab.json", '{"a": -1}', "should give every token an id"),
            ("vocab.json", '{"a": 0}', r"merges\.txt: vocabulary and merges do not fit"),
            ("merges.txt", "#version: 0.2\na b c\n", "a merge should be two tokens, not 'a b c'"),
            ("merges.txt", "no such", "vocabulary and merges do not fit"),
            ("added_tokens.json", '{"<x>": []}', "special tokens in .* cannot be read .* added_tokens"),
            ("tokenizer_config.json", '{"tokenizer_class": "RobertaTokenizer"}', "not enough for RobertaTokenizer"),
        ],
    )
    def test_older_files_that_are_damaged_are_refused(self, tmp_path, name, content, message):
        write_older(tmp_path)
        (tmp_path / "added_tokens.json").write_text('{"<x>": 500, "<y>": 501}')
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message) as error:
            load_tokenizer(tmp_path)
        assert str(tmp_path) in str(error.value)

    @pytest.fixture
    def whole(self, tmp_path):
        write(tmp_path, trained(vocab_size=280), {**CLASS, **NAMED})
        return tmp_path, (tmp_path / "tokenizer.json").read_bytes()

    @settings(fuzz, max_examples=150)
    @given(st.data())
    def test_any_damage_to_tokenizer_json_is_refused_or_harmless(self, whole, data):
        directory, content = whole
        content = bytearray(content)
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.none() | st.integers(0, len(content)))
        (directory / "tokenizer.json").write_bytes(content[:cut])
        refused_or_harmless(directory)

    @settings(fuzz, max_examples=150)
    @given(st.data())
    def test_values_of_another_type_are_refused_or_harmless(self, whole, data):
        directory, content = whole
        fields = json.loads(content)
        place, key = fields, data.draw(st.sampled_from(sorted(fields)))
        while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place[key] = data.draw(st.sampled_from([None, 3, -1, 1e30, "x", "", [], {}, True, [3], {"type": "BPE"}]))
        (directory / "tokenizer.json").write_text(json.dumps(fields))
        refused_or_harmless(directory)


OPTIONAL = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]


@pytest.mark.parametrize("name", [*OPTIONAL, "chat_template.jinja", "config.json", "vocab.json"])
@pytest.mark.parametrize("put", [Path.mkdir, lambda path: os.mkfifo(path), lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_not_passed_over(tmp_path, name, put):
    """A folder, a pipe (which would be waited for) or a broken link in the place of a file that need not be there."""
    write(tmp_path, trained(), None)
    for file in ("tokenizer.json",) if name == "vocab.json" else ():
        (tmp_path / file).unlink()
    (tmp_path / name).unlink(missing_ok=True)
    put(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=rf"{name} (is a directory, not a file|is no file)"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("i", [2**24 + 1, 2**31, 2**32 - 1])
def test_an_id_beyond_any_vocabulary_is_refused(tmp_path, name, i):
    """Saving such a tokenizer walks over all ids up to the highest, and a model for it would have as many rows."""
    fields = json.loads(trained(300).to_str())
    fields["model"]["vocab"]["zz"] = i
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / name).write_text(json.dumps(fields if name == "tokenizer.json" else fields["model"]["vocab"]))
    with pytest.raises(ValueError, match=rf"{name}.*(has the id {i}; at most 16777216|should give every token an id)"):
        load_tokenizer(tmp_path)


def of_sentencepiece():
    """A tokenizer of Llama 2's kind."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    backend.train_from_iterator(["hello low rank world. don't, we've!"], trainer)
    return backend


@pytest.mark.parity
@pytest.mark.parametrize("make", [trained, of_sentencepiece])
@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize(
    "name",
    [None, "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer"],
)
def test_the_padding_side_is_that_of_the_class_where_no_file_says(tmp_path, make, side, name):
    import transformers

    config = {"tokenizer_class": name, "padding_side": side}
    write(tmp_path, make(), {**NAMED, **{key: value for key, value in config.items() if value is not None}})
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path).padding_side
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.padding_side == expected
    tokenizer.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").padding_side == expected


SPACES = (
    "Hello </s> low",
    "<s>Hello</s>",
    " </s>",
    "</s> </s>",
    "a<s>b",
    "[INST] low [/INST] x </s><s>[INST] y",
    "",
    " ",
)


@pytest.mark.parity
@pytest.mark.parametrize("add_prefix_space", [None, True, False])
@pytest.mark.parametrize("legacy", [None, True, False])
@pytest.mark.parametrize(
    "make", [trained, *(functools.partial(sentencepiece_like, p) for p in PREFIXES)], ids=("bytes", *PREFIXES)
)
def test_spaces_beside_special_tokens_are_those_of_the_class(tmp_path, make, legacy, add_prefix_space):
    import transformers

    fields = {"legacy": legacy, "add_prefix_space": add_prefix_space}
    for name in ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"):
        given = {key: value for key, value in fields.items() if value is not None}
        write(tmp_path, make(), {"tokenizer_class": name, **given, "bos_token": "<s>", "eos_token": "</s>"})
        twin, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
        tokenizer.save_pretrained(tmp_path / "again")
        for text in SPACES:
            ids = twin(text)["input_ids"]
            assert tokenizer(text)["input_ids"] == ids
            assert load_tokenizer(tmp_path / "again")(text)["input_ids"] == ids
            for skip in (False, True):
                expected = twin.decode(ids, skip_special_tokens=skip)
                assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


def test_importing_lora_np_does_not_load_the_libraries():
    code = "import sys, lora_np, lora_np.models.loading.fetch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"tokenizers", "jinja2"} & set(done.stdout.split())


def test_without_the_library_one_sentence_says_what_brings_it(tmp_path, monkeypatch):
    write(tmp_path, trained())
    write_older(tmp_path / "older")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for directory in (tmp_path, tmp_path / "older"):
        with pytest.raises(ImportError) as error:
            load_tokenizer(directory)
        assert str(error.value) == (
            "a pretrained tokenizer needs the package tokenizers: pip install -e '.[text]' (or pip install tokenizers)"
        )


def test_a_model_type_that_is_none_is_passed_over(tmp_path):
    write(tmp_path, trained(), {**NAMED}, config={"model_type": ["gpt2"]})
    assert load_tokenizer(tmp_path).encode("low") == PretrainedTokenizer(trained(), NAMED).encode("low")
