"""Special tokens: what is added and named, what is refused. tests/idioms/tokenizers.py compares with Transformers."""

import pytest
from tokenizer_helpers import trained
from tokenizers import AddedToken

from lora_np import AutoTokenizer, ByteTokenizer
from lora_np.models.tokenizers import PretrainedTokenizer

CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture
def tokenizer():
    return PretrainedTokenizer(trained(), CONFIG)


def test_a_continuation_knows_added_tokens(tokenizer):
    assert len(tokenizer.encode_continuation("<think>")) > 1
    tokenizer.add_tokens(["<think>"])
    assert tokenizer.encode_continuation("<think>") == [len(tokenizer) - 1]


def test_an_added_token_of_the_library_is_taken(tokenizer):
    assert tokenizer.add_tokens([AddedToken("<a>", special=True), "<b>"]) == 2
    assert tokenizer.add_special_tokens({"pad_token": AddedToken("<p>")}) == 1
    assert tokenizer.pad_token == "<p>"
    assert tokenizer.pad_token_id == len(tokenizer) - 1
    tokenizer.eos_token = AddedToken("<b>")
    assert tokenizer.eos_token == "<b>"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"pad_tokn": "x"}, ValueError, "'pad_tokn' is no special token's name; did you mean 'pad_token'"),
        ({"pad_token": 3}, ValueError, "pad_token should be a token, a text, not 3"),
        ({"extra_special_tokens": [3]}, TypeError, "new_tokens should be texts .* not 3"),
        ({"pad_token": ""}, TypeError, "new_tokens should be texts that are not empty"),
        ("[PAD]", TypeError, r"special_tokens_dict should be a dict like \{'pad_token': '\[PAD\]'\}, not '\[PAD\]'"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_changed(tokenizer, given, error, message):
    before = tokenizer.get_vocab(), tokenizer.special_tokens_map
    with pytest.raises(error, match=message):
        tokenizer.add_special_tokens(given)
    assert (tokenizer.get_vocab(), tokenizer.special_tokens_map) == before


def test_a_token_that_is_not_there_says_how_to_add_it(tokenizer):
    with pytest.raises(
        ValueError, match=r"pad_token = '\[PAD\]' is not in the vocabulary: take .*add_special_tokens\("
    ):
        tokenizer.pad_token = "[PAD]"
    with pytest.raises(TypeError, match="pad_token should be a token, a text, not 3"):
        tokenizer.pad_token = 3


def test_special_tokens_of_a_row(tokenizer):
    assert tokenizer.get_special_tokens_mask([1, 90, 2], already_has_special_tokens=True) == [1, 0, 1]
    with pytest.raises(ValueError, match="already_has_special_tokens=True"):
        tokenizer.get_special_tokens_mask([1])


def test_what_is_padded_must_be_encodings(tokenizer):
    for wrong, message in [
        ([[1, 2]], "pad wants encodings"),
        ([{"ids": [1]}], "there are no input_ids in what should be padded, but ids"),
        ([{"input_ids": [1]}, {"input_ids": [1], "labels": [1]}], "the encodings have different names"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            tokenizer.pad(wrong)
    ragged = [{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [5], "labels": [5]}]
    with pytest.raises(ValueError, match="labels has rows of 1 to 2 numbers, which make no array: pad them"):
        tokenizer.pad(ragged, return_tensors="np")


@pytest.mark.parametrize(("name", "value"), [("push_to_hub", True), ("legacy_format", True), ("filename_prefix", "x")])
def test_what_saving_does_not_do_is_refused(tokenizer, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}=.* is not possible here"):
        tokenizer.save_pretrained(tmp_path, **{name: value})
    with pytest.raises(TypeError, match="save_pretrained has no option 'push_to_hubb'; did you mean 'push_to_hub'"):
        tokenizer.save_pretrained(tmp_path, push_to_hubb=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [0, -3, "8", True, float("nan"), float("inf")])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(ValueError, match="model_max_length must be a positive number, not"):
        PretrainedTokenizer(trained(), {**CONFIG, "model_max_length": length})


def test_a_repr_worth_reading(tokenizer):
    assert repr(tokenizer).startswith(
        "PretrainedTokenizer('', 308 tokens, model_max_length=unknown, padding_side='right'"
    )


def test_the_other_end_of_a_text_stays_as_it_is(tmp_path):
    """Transformers drops the begin token when only add_eos_token is set; the model was trained with it."""
    tokenizer = PretrainedTokenizer(trained(), {"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.add_bos_token = True
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, add_eos_token=True)
    assert loaded.decode(loaded.encode("low")) == "<s>low</s>"
    assert (loaded.add_bos_token, loaded.add_eos_token) == (True, True)


def test_a_token_that_is_not_there_surrounds_nothing():
    with pytest.raises(ValueError, match="add_bos_token=True needs a bos_token"):
        PretrainedTokenizer(trained(), {}).add_bos_token = True


@pytest.mark.parametrize("tokenizer", [PretrainedTokenizer(trained(), {}), ByteTokenizer()])
def test_half_a_character_is_refused_with_its_place(tokenizer):
    for call in (tokenizer, tokenizer.encode, tokenizer.encode_continuation):
        with pytest.raises(ValueError, match=r"half a character \(a lone surrogate\) at 2"):
            call("ab\ud800")


@pytest.mark.parametrize("wrong", [3, [3], None])
def test_what_is_no_token_is_not_added(wrong):
    with pytest.raises(TypeError, match="new_tokens should be texts that are not empty"):
        PretrainedTokenizer(trained(), {}).add_tokens(wrong)


def test_a_target_without_a_text_is_refused_by_name():
    with pytest.raises(ValueError, match="text_target='low' is not possible here: encode the target with a call"):
        ByteTokenizer()(text_target="low")
