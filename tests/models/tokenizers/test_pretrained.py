"""Tokenizers that put a space before a text: where they may not, and how what they write is streamed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz
from tokenizer_helpers import sentencepiece_like, trained
from tokenizers import Tokenizer, models, pre_tokenizers

from lora_np.models.tokenizers import PretrainedTokenizer, load_tokenizer

CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PREFIXES = ["prepend", "always", "first", "never"]
WORDS = st.lists(st.sampled_from(["low", " low", "rank", " ", "  ", "é", " 😀", "\n", "Hello", "12", "."]), max_size=6)
TEXTS = WORDS.map("".join)


@pytest.fixture(scope="module", params=PREFIXES)
def spaced(request):
    return PretrainedTokenizer(sentencepiece_like(request.param), CONFIG)


@settings(fuzz, max_examples=100)
@given(prompt=TEXTS.filter(bool), completion=TEXTS)
def test_a_continuation_adds_no_space_of_its_own(spaced, prompt, completion):
    asked, ids = spaced.encode(prompt), spaced.encode(prompt) + spaced.encode_continuation(completion)
    assert spaced.decode(ids, skip_special_tokens=True) == spaced.decode(asked, skip_special_tokens=True) + completion
    if not prompt.startswith(" "):  # which a Metaspace takes for its own
        assert spaced.decode(ids, skip_special_tokens=True) == prompt + completion


@settings(fuzz, max_examples=100)
@given(prompt=TEXTS.filter(bool), completion=TEXTS, skip=st.booleans())
def test_what_is_streamed_behind_a_prompt_keeps_its_space(spaced, prompt, completion, skip):
    before, ids = spaced.encode(prompt), spaced.encode_continuation(completion)
    pieces = list(spaced.decode_stream(iter(ids), skip, before=before))
    assert all(pieces)
    assert spaced.decode(before, skip) + "".join(pieces) == spaced.decode(before + ids, skip)
    assert "".join(spaced.decode_stream(iter(before + ids), skip)) == spaced.decode(before + ids, skip)


def test_the_space_is_there_where_llama_2_has_it():
    tokenizer = PretrainedTokenizer(sentencepiece_like(), CONFIG)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("low")) == ["<s>", "▁lo", "w"]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode_continuation("low")) == ["lo", "w"]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode_continuation(" low")) == ["▁lo", "w"]


def test_gpt2s_kind_of_space_is_left_out_too():
    backend = trained()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = PretrainedTokenizer(backend, CONFIG)
    assert tokenizer.decode(tokenizer.encode("low")) == " low"
    assert tokenizer.decode(tokenizer.encode_continuation("low")) == "low"


def test_without_such_a_space_nothing_is_built():
    tokenizer = PretrainedTokenizer(trained(bos="<s>"), CONFIG)
    assert tokenizer._continuing is tokenizer.backend
    assert tokenizer.encode_continuation("low") == tokenizer.encode("low", add_special_tokens=False)


@pytest.mark.parity
def test_an_added_token_keeps_its_name_where_texts_begin_with_a_space(tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_like(), unk_token="<unk>", eos_token="</s>")
    ours = PretrainedTokenizer(sentencepiece_like(), {"unk_token": "<unk>", "eos_token": "</s>"})
    for tokenizer in (ours, theirs):
        tokenizer.add_tokens(["[PAD]", "</s>"])
        tokenizer.pad_token = "[PAD]"
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.pad_token_id == theirs.pad_token_id == len(ours) - 1
    assert ours.convert_ids_to_tokens([0, 299]) == theirs.convert_ids_to_tokens([0, 299])
    assert ours.convert_ids_to_tokens([0, 299], True) == theirs.convert_ids_to_tokens([0, 299], True)
    ours.save_pretrained(tmp_path)
    for load in (load_tokenizer, AutoTokenizer.from_pretrained):
        loaded = load(tmp_path)
        assert (loaded.pad_token_id, loaded.eos_token_id, len(loaded)) == (299, 2, len(ours))


@pytest.mark.parity
def test_a_unigram_vocabulary_shows_what_it_does_not_know():
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("lo", -2.0), ("w", -3.0)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {"unk_token": "<unk>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.to_str()), **special)
    ours = PretrainedTokenizer(backend, special)
    for text in ("low", "lowß", "", "中文 lo"):
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.tokenize(text, "ß") == theirs.tokenize(text, "ß")


@pytest.mark.parity
def test_tokens_show_the_spaces_that_an_added_one_takes():
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    backend = trained()
    backend.add_tokens([AddedToken(" add", lstrip=True)])
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.to_str()))
    assert PretrainedTokenizer(backend, {}).tokenize("   add low") == theirs.tokenize("   add low")
