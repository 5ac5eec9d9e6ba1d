"""The byte tokenizer: every text has one encoding and comes back from it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_helpers import fuzz

from lora_np import ByteTokenizer
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
    assert ByteTokenizer().decode(ids) == "hé"  # as a model gets and returns it
    assert ByteTokenizer().decode(ids[0]) == "hé"


def test_ids_behind_the_vocabulary_are_no_text_as_in_transformers():
    """A model's vocabulary may be padded to a round number."""
    assert ByteTokenizer().decode([65, 256, 66]) == "AB"


def test_a_negative_id_is_refused():
    with pytest.raises(ValueError, match="-1 is no token id: the vocabulary's are 0 to 255"):
        ByteTokenizer().decode([-1])


def test_the_end_of_text_is_byte_0():
    assert ByteTokenizer().decode([ByteTokenizer.eos_token_id]) == "\0"
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
    ByteTokenizer().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"tokenizer_class": "ByteTokenizer"}
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer)


def test_its_chat_template_is_saved_too(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    chat = load_tokenizer(tmp_path).apply_chat_template([{"role": "user", "content": "Hé"}])
    assert chat["input_ids"] == list("user: Hé\n".encode())
    assert ByteTokenizer().chat_template is None
