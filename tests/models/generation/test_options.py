"""generation_config.json: what it says holds where a call says nothing, as in Transformers."""

import json
import math

import numpy as np
import pytest
from lora_helpers import some_ids, tiny_model

from lora_np.models.generation.defaults import FIELDS, LACKING
from lora_np.models.loading.checkpoints import load_pretrained

SAMPLED = {"do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.3}


@pytest.fixture
def loaded(tmp_path):
    """A function: the model with these fields in its generation_config.json."""

    def load(**fields):
        tiny_model(eos_token_id=None, n_positions=32).save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text(json.dumps(fields))
        return load_pretrained(tmp_path)

    return load


def test_each_field_is_the_default_of_its_argument(loaded):
    ids = some_ids(tiny_model().config, batch=2, time=3)
    plain = loaded()
    for fields in (SAMPLED, {"repetition_penalty": 2.0}, {"do_sample": True}, {"do_sample": True, "top_k": 1}):
        expected = plain.generate(ids, max_new_tokens=9, seed=5, **fields)
        np.testing.assert_array_equal(loaded(**fields, max_new_tokens=9).generate(ids, seed=5), expected)


def test_an_argument_goes_before_the_file_also_if_it_is_none(loaded):
    ids = some_ids(tiny_model().config, batch=1, time=3)
    plain, model = loaded(), loaded(**SAMPLED, max_new_tokens=9)
    for given in ({"do_sample": False}, {"temperature": 2.0}, {"top_k": None}, {"top_p": None}, {"top_k": 20}):
        expected = plain.generate(ids, max_new_tokens=5, seed=1, **{**SAMPLED, **given})
        np.testing.assert_array_equal(model.generate(ids, max_new_tokens=5, seed=1, **given), expected)


def test_zero_is_all_tokens_in_a_file(loaded):
    ids = some_ids(tiny_model().config, batch=1, time=3)
    expected = loaded().generate(ids, do_sample=True, seed=1)
    np.testing.assert_array_equal(loaded(do_sample=True, top_k=0).generate(ids, seed=1), expected)


@pytest.mark.parametrize(
    ("fields", "given", "length"),
    [
        ({}, {}, 23),
        ({"max_new_tokens": 4}, {}, 7),
        ({"max_length": 9}, {}, 9),
        ({"max_length": 9, "max_new_tokens": 4}, {}, 7),
        ({"max_length": 9}, {"max_new_tokens": 2}, 5),
        ({"max_length": 2}, {"max_new_tokens": 2}, 5),
        ({"max_new_tokens": None, "max_length": None}, {}, 23),
    ],
)
def test_how_long_the_text_becomes(loaded, fields, given, length):
    assert loaded(**fields).generate([[1, 2, 3]], **given).shape == (1, length)


def test_a_text_that_is_as_long_already_is_refused(loaded):
    with pytest.raises(ValueError, match=r"3 tokens, and generation_config\.json says max_length = 3: give max_new_to"):
        loaded(max_length=3).generate([[1, 2, 3]])


@pytest.mark.parity
@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 9},
        {"max_new_tokens": 4, "max_length": 5},
        {"repetition_penalty": 3.0},
        {"eos_token_id": [3, 5, 7, 9, 11, 13], "pad_token_id": 2},
        {"temperature": 0.0},
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
    ],
)
def test_transformers_writes_the_same(loaded, fields, tmp_path):
    import torch
    import transformers

    model = loaded(**fields)
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = some_ids(model.config, batch=2, time=3)
    expected = twin.generate(torch.tensor(ids), attention_mask=torch.ones(2, 3, dtype=torch.long)).numpy()
    np.testing.assert_array_equal(model.generate(ids), expected)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["x", [["x"]], {"a": 1}, math.nan, math.inf, -7, 10**400])
def test_odd_values_are_refused_with_file_and_field(loaded, name, value):
    with pytest.raises(ValueError, match=rf"generation_config\.json: {name} must be"):
        loaded(**{name: value})


@pytest.mark.parametrize(
    ("fields", "given", "message"),
    [
        ({"do_sample": True, "temperature": 0.0}, {}, "temperature must be positive"),
        ({"temperature": 0.0}, {"do_sample": True}, "temperature must be positive"),
        ({"top_p": 0.0}, {}, r"top_p must be in \(0, 1\]"),
        ({"repetition_penalty": 0}, {}, "repetition_penalty must be positive"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_file_unless_the_call_has_another(loaded, fields, given, message):
    model = loaded(**fields)
    with pytest.raises(ValueError, match=rf"generation_config\.json: {message}"):
        model.generate([[1, 2]], **given)
    name = next(reversed(fields))
    assert model.generate([[1, 2]], **{**given, name: 0.5}).shape == (1, 22)


@pytest.mark.parametrize(
    "fields",
    [{"num_beams": 4}, {"no_repeat_ngram_size": 3}, {"min_p": 0.1}, {"bad_words_ids": [[1]]}, {"stop_strings": "x"}],
)
def test_what_would_change_the_text_and_is_not_here_is_warned_about(loaded, fields):
    (name,) = fields
    with pytest.warns(UserWarning, match=rf"generation_config\.json: {name} = .* is not supported"):
        loaded(**fields, max_new_tokens=1).generate([[1, 2]])


def test_what_does_nothing_is_not_warned_about(loaded, recwarn):
    neutral = {name: values[0] for name, values in LACKING.items() if values}
    loaded(**neutral, max_time=None, transformers_version="4", use_cache=True, max_new_tokens=1).generate([[1, 2]])
    assert not recwarn.list


def test_minus_one_is_no_padding_token(loaded):
    """Old files of Llama have it."""
    model = loaded(pad_token_id=-1, eos_token_id=[3, 5, 7, 9, 11, 13, 15], max_new_tokens=9)
    out = model.generate(some_ids(model.config, batch=4, time=3))
    assert out.min() >= 0


def test_gpt2_stops_where_transformers_does_if_no_file_says():
    """At its own end of text, 50256."""
    fields = {name: value for name, value in tiny_model().config.to_dict().items() if not name.endswith("token_id")}
    assert type(tiny_model().config).from_dict(fields).eos_token_id == 50256
    assert type(tiny_model().config).from_dict({**fields, "eos_token_id": None}).eos_token_id is None
