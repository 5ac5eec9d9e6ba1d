"""The options of a call: what generation_config.json says holds where a call says nothing, as in Transformers."""

import json
import math

import numpy as np
import pytest
from lora_helpers import some_ids, tiny_model

from lora_np import GenerationConfig, KVCache
from lora_np.models.generation.config import LACKING
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


def test_zero_is_all_tokens(loaded):
    ids = some_ids(tiny_model().config, batch=1, time=3)
    options = {"do_sample": True, "max_new_tokens": 20, "seed": 1}
    expected = loaded().generate(ids, top_k=None, **options)
    np.testing.assert_array_equal(loaded().generate(ids, top_k=0, **options), expected)
    np.testing.assert_array_equal(loaded(top_k=0).generate(ids, **options), expected)


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
        ({"max_new_tokens": 4}, {"max_length": 9}, 7),
        ({}, {"max_length": 9}, 9),
        ({}, {"max_length": 9, "max_new_tokens": 2}, 5),
        ({"max_length": 9}, {"max_length": None}, 23),
        ({"max_new_tokens": 9}, {"generation_config": GenerationConfig(max_new_tokens=4)}, 7),
        ({"max_new_tokens": 9}, {"generation_config": GenerationConfig(top_k=4)}, 12),
        ({}, {"generation_config": GenerationConfig(max_new_tokens=4), "max_new_tokens": 2}, 5),
    ],
)
@pytest.mark.filterwarnings("ignore:neither max_new_tokens", "ignore:max_new_tokens and max_length are both")
def test_how_long_the_text_becomes(loaded, fields, given, length):
    assert loaded(**fields).generate([[1, 2, 3]], **given).shape == (1, length)


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}])
def test_an_error_of_the_file_names_it(loaded, more):
    with pytest.raises(ValueError, match=r"generation_config\.json: num_return_sequences=3"):
        loaded(num_return_sequences=3, **more).generate([[1, 2]], max_new_tokens=2)


def test_a_text_that_is_as_long_already_is_refused(loaded):
    message = r"3 tokens already, and generation_config\.json: max_length is 3: give max_new_tokens"
    with pytest.raises(ValueError, match=message):
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


@pytest.mark.parametrize("name", ["top_k", "eos_token_id", "bad_words_ids", "max_length"])
@pytest.mark.parametrize("value", [[["x"]], math.nan])
def test_odd_values_are_refused_with_file_and_field(loaded, name, value):
    with pytest.raises(ValueError, match=rf"generation_config\.json: {name} must be"):
        loaded(**{name: value})


@pytest.mark.parametrize(
    ("fields", "given", "message"),
    [
        ({"do_sample": True, "temperature": 0.0}, {}, "temperature must be positive"),
        ({"temperature": 0.0}, {"do_sample": True}, "temperature must be positive"),
        ({"do_sample": True, "top_h": 0.0}, {}, r"top_h must be in \(0, 1\]"),
        ({"repetition_penalty": 0}, {}, "repetition_penalty must be positive"),
        ({"forced_eos_token_id": 99}, {}, "forced_eos_token_id is 99, and the model has 31 tokens"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_file_unless_the_call_has_another(loaded, fields, given, message):
    model = loaded(**fields)
    with pytest.raises(ValueError, match=rf"generation_config\.json: {message}"):
        model.generate([[1, 2]], **given)
    name = next(reversed(fields))
    better = {"forced_eos_token_id": 3}.get(name, 0.5)
    assert model.generate([[1, 2]], max_new_tokens=20, **{**given, name: better}).shape == (1, 22)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_beam_groups": 4},
        {"penalty_alpha": 0.6},
        {"guidance_scale": 1.5},
        {"dola_layers": "low"},
        {"use_mtp": True},
    ],
)
def test_what_would_change_the_text_and_is_not_here_is_warned_about(loaded, fields):
    (name,) = fields
    with pytest.warns(UserWarning, match=rf"generation_config\.json: {name} = .* is not supported"):
        loaded(**fields, max_new_tokens=1).generate([[1, 2]])


def test_what_does_nothing_is_not_warned_about(loaded, recwarn):
    neutral = {name: values[0] for name, values in LACKING.items() if values}
    neutral |= {"bad_words_ids": [], "sequence_bias": [], "stop_strings": "", "suppress_tokens": [], "top_k": 0}
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


def test_fifty_tokens_are_drawn_from_if_nothing_is_said():
    """As in Transformers."""
    model, options = tiny_model(vocab_size=200), {"max_new_tokens": 1, "do_sample": True, "temperature": 1e4, "seed": 0}
    ids = np.repeat([[3, 1]], 4000, axis=0)
    for given, count in (({}, 50), ({"top_k": 60}, 60), ({"top_k": None}, 200)):
        assert len(np.unique(model.generate(ids, **options, **given)[:, -1])) == count


def test_without_a_bound_there_are_twenty_tokens_and_a_sentence():
    message = r"neither max_new_tokens nor max_length .* at most 20 new tokens are written"
    with pytest.warns(UserWarning, match=message) as found:
        assert tiny_model(eos_token_id=None, n_positions=40).generate([[1, 2]]).shape == (1, 22)
    assert found[0].filename == __file__  # where the call is


def test_without_a_bound_the_text_stays_in_the_models_context():
    """As in Transformers."""
    model = tiny_model(eos_token_id=None)
    with pytest.warns(UserWarning, match="neither max_new_tokens"):
        assert model.generate([[1, 2]]).shape == (1, 12)
    with (
        pytest.warns(UserWarning, match="neither max_new_tokens"),
        pytest.raises(
            ValueError, match=r"the text has 12 tokens already, and the model's context is 12: give max_new_t"
        ),
    ):
        model.generate([[1] * 12])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 5, "max_new_tokens": 2}, "max_new_tokens and max_length are both given: max_new_tokens counts"),
        ({"max_new_tokens": 2, "min_new_tokens": 3}, "min_new_tokens=3 cannot be reached: the text ends at 4 tokens"),
        ({"max_new_tokens": 2, "min_length": 5}, "min_length=5 cannot be reached: the text ends at 4 tokens"),
        ({"max_new_tokens": 2, "output_scores": True}, "output_scores=True does nothing without return_dict_in_genera"),
    ],
)
def test_what_cannot_be_as_it_is_asked_is_warned_about(options, message):
    with pytest.warns(UserWarning, match=message):
        tiny_model().generate([[1, 2]], **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_new_token", r"generate has no option 'max_new_token'; did you mean 'max_new_tokens'\?"),
        ("temprature", r"generate has no option 'temprature'; did you mean 'temperature'\?"),
        ("attention_masks", r"generate has no option 'attention_masks'; did you mean 'attention_mask'\?"),
        ("qqq", "generate has no option 'qqq'$"),
    ],
)
def test_an_option_that_there_is_not_is_named_with_the_nearest(name, message):
    for write in (tiny_model().generate, tiny_model().stream):
        with pytest.raises(TypeError, match=message):
            write([[1, 2]], **{name: 3})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"assistant_model": 1}, ValueError, "assistant_model is not supported: tokens are not guessed by a second"),
        ({"custom_generate": "x"}, ValueError, "custom_generate is not supported: there is one loop"),
        ({"inputs_embeds": 1}, ValueError, "inputs_embeds is not supported: a text is given by its ids"),
        ({"num_beam_groups": 2}, ValueError, "num_beam_groups=2 is not supported: leave it out"),
        ({"prompt_lookup_num_tokens": 3}, ValueError, "prompt_lookup_num_tokens=3 is not supported"),
        ({"output_attentions": True}, ValueError, "output_attentions=True is not supported"),
        (
            {"num_return_sequences": 2},
            ValueError,
            "num_return_sequences=2: the most likely tokens are one text; use do",
        ),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            ValueError,
            "num_return_sequences=3 is more than the num_beams=2",
        ),
        ({"num_beams": 0}, ValueError, "num_beams must be a positive integer, got 0"),
        ({"num_beams": 2.5}, ValueError, "num_beams must be a positive integer, got 2.5"),
        ({"early_stopping": "x"}, ValueError, "early_stopping must be true or false or 'never', got 'x'"),
        ({"stop_strings": "x"}, ValueError, "stop_strings are looked for in the text: give tokenizer="),
        ({"stop_strings": "x", "tokenizer": "gpt2"}, TypeError, "tokenizer should be the model's tokenizer"),
        ({"generation_config": {"top_k": 1}}, TypeError, r"generation_config should be a GenerationConfig"),
        ({"logits_processor": [1]}, TypeError, r"logits_processor should be a list of functions of \(ids, scores\)"),
        ({"stopping_criteria": [KVCache]}, TypeError, "stopping_criteria should be a list of functions"),
        ({"streamer": 1}, TypeError, r"streamer should be a streamer, such as TextStreamer\(tokenizer\)"),
        ({"past_key_values": 1}, TypeError, "past_key_values should be a KVCache"),
        ({"input_ids": [[1]]}, ValueError, "inputs and input_ids both say what is to be continued"),
        ({"inputs": {"input_ids": [1]}}, TypeError, r"write generate\(\*\*tokenizer\(text\)\)"),
        ({"inputs": ["a text", "b"]}, TypeError, r"write generate\(\*\*tokenizer\(text\)\)"),
        ({"inputs": [[1, 2], [3]]}, ValueError, r"different lengths: tokenizer\(texts, padding=True, padding_side='le"),
        ({"seed": "x", "do_sample": True}, TypeError, "seed should be a whole number"),
        ({"prefix_allowed_tokens_fn": 3}, TypeError, r"prefix_allowed_tokens_fn should be a function of \(row, ids\)"),
        ({"inputs": "a text"}, TypeError, r"write generate\(\*\*tokenizer\(text\)\)"),
        (
            {"forced_bos_token_id": 3, "suppress_tokens": [3, 4]},
            ValueError,
            "forced_bos_token_id=3 is forced, and supp",
        ),
        ({"forced_eos_token_id": [3], "suppress_tokens": [3]}, ValueError, r"forced_eos_token_id=\[3\] is forced, and"),
        ({"forced_bos_token_id": 31}, ValueError, "forced_bos_token_id is 31, and the model has 31 tokens"),
    ],
)
def test_what_is_not_here_or_makes_no_sense_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        tiny_model().generate(**{"inputs": [[1, 2]], "max_new_tokens": 1, **options})


def test_nothing_to_begin_with_is_named():
    with pytest.raises(ValueError, match="there is nothing to continue: give input_ids"):
        tiny_model(bos_token_id=None).generate(max_new_tokens=1)


def test_what_changes_nothing_here_is_accepted():
    model = tiny_model()
    expected = model.generate([[1, 2]], max_new_tokens=3)
    options = {
        "synced_gpus": False,
        "cache_implementation": "static",
        "assistant_model": None,
        "token_type_ids": [[0, 0]],
    }
    np.testing.assert_array_equal(model.generate([[1, 2]], max_new_tokens=3, **options), expected)


def test_numbers_of_numpy_are_numbers_too():
    model = tiny_model()
    stop, new, factor = np.array([3, 5]), np.int64(4), np.float32(1.5)
    expected = model.generate([[1, 2]], max_new_tokens=4, eos_token_id=[3, 5], repetition_penalty=1.5)
    found = model.generate([[1, 2]], max_new_tokens=new, eos_token_id=stop, repetition_penalty=factor)
    np.testing.assert_array_equal(found, expected)
