"""Rotary frequencies: by their definitions, against Transformers, and what config files of all ages say about them."""

import json
import math
import re

import numpy as np
import pytest

from lora_np.models import LlamaConfig
from lora_np.models.rope import ORIGINAL, REQUIRED, check_rope, inverse_frequencies, rope_parameters

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def by_definition(i, head_dim, parameters):
    """The frequency of one pair of channels, in Python's own numbers."""
    plain = parameters["rope_theta"] ** (-2 * i / head_dim)
    if parameters["rope_type"] == "default":
        return plain
    if parameters["rope_type"] == "linear":
        return plain / parameters["factor"]
    turns = parameters["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    if turns > high:
        return plain
    if turns < low:
        return plain / parameters["factor"]
    share = (turns - low) / (high - low)
    return share * plain + (1 - share) * plain / parameters["factor"]


CASES = {
    "plain": (64, PLAIN),
    "odd number of pairs": (6, {**PLAIN, "rope_theta": 77}),
    "one pair": (2, PLAIN),
    "linear": (64, {**PLAIN, "rope_type": "linear", "factor": 4.0}),
    "llama 3.1": (128, LLAMA_3_1),
    "llama 3.2": (64, {**LLAMA_3_1, "factor": 32}),
    "llama3, short": (16, {**LLAMA_3_1, "original_max_position_embeddings": 40}),
}


@pytest.mark.parametrize(("head_dim", "parameters"), CASES.values(), ids=CASES.keys())
def test_frequencies_are_those_of_the_definition(head_dim, parameters):
    found = inverse_frequencies(head_dim, check_rope(parameters))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [by_definition(i, head_dim, parameters) for i in range(head_dim // 2)], rtol=1e-5)


def test_llama3_has_three_regions():
    """Fast pairs stay, slow ones are divided by the factor, some lie between; so the test above covers each."""
    plain = inverse_frequencies(128, {**PLAIN, "rope_theta": LLAMA_3_1["rope_theta"]})
    ratio = plain / inverse_frequencies(128, LLAMA_3_1)
    assert ratio[0] == 1
    np.testing.assert_allclose(ratio[-1], 8, rtol=1e-6)
    assert ((ratio > 1.01) & (ratio < 7.99)).sum() > 3
    assert (np.diff(ratio) > -1e-5).all()


@pytest.mark.parity
@pytest.mark.parametrize(("head_dim", "parameters"), CASES.values(), ids=CASES.keys())
def test_frequencies_are_transformers(head_dim, parameters):
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=head_dim, num_attention_heads=1, rope_parameters=parameters, max_position_embeddings=131072
    )
    expected = LlamaRotaryEmbedding(config).inv_freq.numpy()
    np.testing.assert_allclose(inverse_frequencies(head_dim, check_rope(parameters)), expected, rtol=1e-6)


LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, PLAIN),
        ({"rope_theta": 500.0}, {**PLAIN, "rope_theta": 500.0}),
        ({"rope_theta": 500.0, "rope_scaling": None}, {**PLAIN, "rope_theta": 500.0}),
        ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, LINEAR),
        ({"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, LINEAR),
        ({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}}, {**LINEAR, "rope_theta": 10000.0}),
        ({"rope_theta": 1.0, "rope_parameters": LINEAR}, LINEAR),
        ({"rope_parameters": LLAMA_3_1, "rope_scaling": None}, LLAMA_3_1),
        ({"rope_parameters": None, "rope_theta": 500.0}, {**PLAIN, "rope_theta": 500.0}),
    ],
)
def test_config_files_old_and_new_say_the_same(fields, expected):
    assert rope_parameters(fields) == expected
    assert LlamaConfig.from_dict(fields).rope_parameters == expected


SHORT = {key: value for key, value in LLAMA_3_1.items() if key != ORIGINAL}
BESIDE = {
    "scaling beside": {
        "rope_parameters": {**PLAIN, "rope_theta": 5.0},
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "theta beside scaling": {
        "rope_theta": 7.0,
        "rope_parameters": PLAIN,
        "rope_scaling": {**LINEAR, "rope_theta": 3.0},
    },
    "scaling without theta": {
        "rope_theta": 7.0,
        "rope_parameters": PLAIN,
        "rope_scaling": {"type": "linear", "factor": 4},
    },
    "empty scaling": {"rope_scaling": {}, "rope_parameters": LINEAR},
    "rope_type before type": {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}},
    "the context in the dict": {"rope_scaling": {**SHORT, ORIGINAL: 16}},
    "the context beside it": {"rope_scaling": SHORT, ORIGINAL: 16},
    "the context in both": {"rope_scaling": {**SHORT, ORIGINAL: 32}, ORIGINAL: 16},
    "the context beside rope_parameters": {"rope_parameters": {**SHORT, ORIGINAL: 32}, ORIGINAL: 16},
    "no context at all": {"rope_scaling": SHORT, "max_position_embeddings": 64},
    "an older spelling": {"rope_scaling": {"type": "llama3", **{k: v for k, v in SHORT.items() if k != "rope_type"}}},
}


@pytest.mark.parity
@pytest.mark.parametrize("given", BESIDE.values(), ids=BESIDE)
def test_what_stands_beside_each_other_counts_as_in_transformers(given, tmp_path):
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    fields = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, **given}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    expected = LlamaRotaryEmbedding(transformers.AutoConfig.from_pretrained(tmp_path)).inv_freq.numpy()
    config = LlamaConfig.from_dict(fields)
    np.testing.assert_allclose(inverse_frequencies(32, config.rope_parameters), expected, rtol=1e-6)
    again = LlamaConfig.from_dict(config.to_dict())
    np.testing.assert_array_equal(again.rope_parameters, config.rope_parameters)


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", ["linear", [1], 2.0, False, 0, ""])
def test_settings_that_are_no_object_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an object, got"):
        LlamaConfig.from_dict({name: value})


def test_settings_for_each_kind_of_layer_are_refused():
    with pytest.raises(ValueError, match="each kind of layer"):
        LlamaConfig.from_dict({"rope_parameters": {"full_attention": PLAIN}})


@pytest.mark.parametrize("value", [1e-10, 1e19, 1e300, 10**400])
def test_numbers_that_float32_has_no_room_for_are_refused(value):
    for name in ("rope_theta", "factor"):
        with pytest.raises(ValueError, match=f"needs a positive number {name}"):
            check_rope({**LINEAR, name: value})


def test_what_is_read_is_left_as_it_was():
    fields = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    rope_parameters(fields)
    assert fields == {"rope_scaling": {"type": "linear", "factor": 2.0}}


@pytest.mark.parametrize(
    "kind", [["linear"], "mrope", "dynamic", "yarn", "longrope", "su", "proportional", "", None, 3]
)
def test_other_kinds_are_refused_by_name(kind):
    with pytest.raises(
        ValueError, match=f"rope_type {re.escape(repr(kind))} is not supported; supported are {', '.join(REQUIRED)}"
    ):
        check_rope({"rope_type": kind, "factor": 2.0})


@pytest.mark.parametrize("value", [None, 0, -1.0, "2", True, float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in REQUIRED for name in ("rope_theta", *REQUIRED[kind])]
)
def test_a_number_that_makes_no_sense_is_named(kind, name, value):
    parameters = {**LLAMA_3_1, "rope_type": kind, name: value}
    with pytest.raises(ValueError, match=f"rope_type {kind!r} needs a positive number {name}, got"):
        check_rope(parameters)


@pytest.mark.parametrize("name", REQUIRED["llama3"])
def test_a_missing_number_is_named(name):
    parameters = {key: value for key, value in LLAMA_3_1.items() if key != name}
    with pytest.raises(ValueError, match=f"needs a positive number {name}, got None"):
        check_rope(parameters)


def test_factors_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="low_freq_factor below its high_freq_factor"):
        check_rope({**LLAMA_3_1, "low_freq_factor": 4.0})


def test_a_part_of_each_head_is_refused():
    with pytest.raises(ValueError, match="partial_rotary_factor"):
        check_rope({**PLAIN, "partial_rotary_factor": 0.5})
    with pytest.raises(ValueError, match="partial_rotary_factor"):
        LlamaConfig.from_dict({"partial_rotary_factor": 0.5})
    assert LlamaConfig.from_dict({"partial_rotary_factor": None}).rope_parameters == PLAIN
    assert check_rope({**PLAIN, "partial_rotary_factor": 1.0})["rope_theta"] == 10000.0
