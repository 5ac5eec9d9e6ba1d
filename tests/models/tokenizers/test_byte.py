"""The byte tokenizer: every text has one encoding and comes back from it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz

from lora_np import ByteTokenizer
from lora_np.models.loading.auto import resolve
from lora_np.models.tokenizers import load_tokenizer


@fuzz
@given(st.text())
def test_every_text_comes_back(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@fuzz
@given(st.binary())
def test_any_bytes_decode_to_some_text(content):
    assert ByteTokenizer().decode(list(content)) == content.decode("utf-8", errors="replace")


def test_half_a_character_shows_as_a_replacement():
    ids = ByteTokenizer().encode("é")
    assert ByteTokenizer().decode(ids[:1]) == "\ufffd"


def test_a_call_gives_a_batch_of_one():
    ids = ByteTokenizer()("hé", return_tensors="np")["input_ids"]
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, [[104, 195, 169]])
    assert ByteTokenizer().decode(ids) == ["hé"]  # as a model gets and returns it
    assert ByteTokenizer().decode(ids[0]) == "hé"


def test_ids_behind_the_vocabulary_are_no_text_as_in_transformers():
    """A model's vocabulary may be padded to a round number."""
    assert ByteTokenizer().decode([65, 256, 66]) == "AB"


def test_a_negative_id_is_refused():
    with pytest.raises(ValueError, match="-1 is no token id: the vocabulary's are 0 to 255"):
        ByteTokenizer().decode([-1])


def test_the_end_of_text_is_byte_0():
    assert ByteTokenizer().decode([ByteTokenizer().eos_token_id]) == "\0"
    assert ByteTokenizer().decode([65, 0, 66], skip_special_tokens=True) == "AB"
    assert ByteTokenizer().all_special_ids == [0]


def test_its_tokens_are_the_characters_of_latin_1():
    tokenizer = ByteTokenizer()
    assert len(tokenizer.get_vocab()) == len(tokenizer) == 256
    assert all(tokenizer.convert_tokens_to_ids(token) == i for token, i in tokenizer.get_vocab().items())
    assert tokenizer.convert_ids_to_tokens([195, 169]) == ["Ã", "©"]
    for name in ("bos", "eos", "pad", "unk"):
        token, i = getattr(tokenizer, f"{name}_token"), getattr(tokenizer, f"{name}_token_id")
        assert i is None if token is None else tokenizer.convert_tokens_to_ids(token) == i


@pytest.mark.parametrize("token", ["ab", "", "中"])
def test_a_token_that_is_no_byte_is_refused(token):
    with pytest.raises(ValueError, match="no token"):
        ByteTokenizer().convert_tokens_to_ids(["a", token])


def test_it_is_found_again_by_its_file(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.padding_side, tokenizer.model_max_length, tokenizer.pad_token = "left", 64, " "
    assert all(Path(path).is_file() for path in tokenizer.save_pretrained(tmp_path))
    found = load_tokenizer(tmp_path)
    assert isinstance(found, ByteTokenizer)
    assert repr(found) == repr(tokenizer)


def test_what_it_wrote_before_is_read(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByteTokenizer"}')
    assert repr(load_tokenizer(tmp_path)) == repr(ByteTokenizer())


@pytest.mark.parametrize(("field", "value"), [("eos_token", "中"), ("pad_token", 3), ("padding_side", "top")])
def test_a_wrong_field_is_named_with_its_file(tmp_path, field, value):
    ByteTokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {field}"):
        load_tokenizer(tmp_path)


def test_nothing_can_be_added():
    tokenizer = ByteTokenizer()
    with pytest.raises(ValueError, match="'<think>' cannot be added: this tokenizer has one token for each byte"):
        tokenizer.add_tokens("<think>")
    with pytest.raises(ValueError, match=r"'\[PAD\]' cannot be added"):
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.add_special_tokens({"pad_token": "x"}) == 0
    assert tokenizer.pad_token_id == ord("x")


@pytest.mark.parity
class TestTransformers:
    @pytest.fixture(scope="class", params=["written", "shipped"])
    def twin(self, request, tmp_path_factory):
        """What Transformers makes of its files; those that are shipped stand beside a config of GPT-2's kind."""
        from transformers import AutoTokenizer

        directory = tmp_path_factory.mktemp("byte")
        if request.param == "written":
            ByteTokenizer().save_pretrained(directory)
            return AutoTokenizer.from_pretrained(directory)
        return AutoTokenizer.from_pretrained(str(resolve("tiny-python")))

    @settings(fuzz, max_examples=200)
    @given(st.text() | st.text(alphabet="\0 \nĀé😀ab<"))
    def test_ids_are_equal(self, twin, text):
        tokenizer = ByteTokenizer()
        assert tokenizer(text) == dict(twin(text))
        assert tokenizer(["ab", text], padding=True) == dict(twin(["ab", text], padding=True))

    @settings(fuzz, max_examples=300)
    @given(st.binary() | st.lists(st.sampled_from(b"\xf0\x9f\x98\x80\xe2\x82a\0\xff")), st.booleans())
    def test_texts_are_equal(self, twin, content, skip):
        assert ByteTokenizer().decode(list(content), skip) == twin.decode(list(content), skip_special_tokens=skip)

    def test_special_tokens_are_equal(self, twin):
        tokenizer = ByteTokenizer()
        assert tokenizer.special_tokens_map == twin.special_tokens_map
        assert (len(tokenizer), tokenizer.vocab_size) == (len(twin), twin.vocab_size)
        assert tokenizer.all_special_ids == twin.all_special_ids
        assert tokenizer.padding_side == twin.padding_side

    def test_what_transformers_saves_is_read_again(self, twin, tmp_path):
        twin.save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path)("hé\0") == ByteTokenizer()("hé\0")


def test_its_chat_template_is_saved_too(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    chat = load_tokenizer(tmp_path).apply_chat_template([{"role": "user", "content": "Hé"}])
    assert chat["input_ids"] == list("user: Hé\n".encode())
    assert ByteTokenizer().chat_template is None
