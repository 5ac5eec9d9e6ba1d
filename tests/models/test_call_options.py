"""What Transformers' models are called with, and these not: accepted, refused with a reason, or named as unknown."""

import inspect

import numpy as np
import pytest
from classifier_helpers import tiny_classifier
from lora_helpers import peft_model, some_ids, tiny_model

from lora_np import ByteTokenizer
from lora_np.models.base import CausalLM
from lora_np.models.call_options import KNOWN

NEUTRAL = {"use_cache": False, "return_dict": True, "output_attentions": False, "token_type_ids": None}


@pytest.fixture(params=["language model", "with an adapter", "classifier"])
def model(request):
    return {"language model": tiny_model, "with an adapter": peft_model, "classifier": tiny_classifier}[request.param]()


def test_what_changes_nothing_is_accepted(model):
    ids = some_ids(tiny_model().config, batch=1)
    np.testing.assert_array_equal(model(ids, **NEUTRAL).logits.numpy(), model(ids).logits.numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_cache": True}, r"use_cache=True is not supported: .* past_key_values=KVCache\(capacity\)"),
        ({"return_dict": False}, "return_dict=False is not supported: an output .* is a tuple where it is indexed"),
        ({"output_hidden_states": True}, "output_hidden_states=True is not supported: a model's output is its logits"),
        ({"inputs_embeds": [0.0]}, "inputs_embeds=.* is not supported: a text is given by its ids"),
        ({"token_type_ids": [[0, 0]]}, "token_type_ids=.* is not supported: the models here read no token types"),
    ],
)
def test_what_is_not_here_is_refused_with_a_reason(model, options, message):
    with pytest.raises(ValueError, match=f"the model: {message}"):
        model([[1, 2]], **options)


def test_a_misspelt_name_is_met_with_the_nearest(model):
    with pytest.raises(TypeError, match="the model has no option 'label'; did you mean 'labels'"):
        model([[1, 2]], label=[[1, 2]])


def test_a_call_without_ids_says_what_is_missing(model):
    with pytest.raises(TypeError, match="the model needs input_ids, integers"):
        model()


def test_a_classifier_has_no_cache():
    with pytest.raises(TypeError, match="the model has no option 'past_key_values'; it has input_ids, labels"):
        tiny_classifier()([[1, 2]], past_key_values=None)


def test_the_known_names_are_those_of_the_call():
    assert [*inspect.signature(CausalLM.forward).parameters][1:-1] == list(KNOWN)


@pytest.mark.parametrize("given", ["hello", ["hello"], ByteTokenizer()("hello"), ("a", "b")])
def test_a_text_where_ids_belong_is_told_the_call(given):
    model = tiny_model(vocab_size=256)
    with pytest.raises(TypeError, match=r"the model takes ids, not a text .*: write model\(\*\*tokenizer\(text\)\)"):
        model(given)
    assert model(**ByteTokenizer()("abc")).logits.shape == (1, 3, model.config.vocab_size)
