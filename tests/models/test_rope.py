"""Rotary frequencies: by their definitions, against Transformers, and what config files of all ages say about them."""

import math

import numpy as np
import pytest

from lora_np.models import LlamaConfig
from lora_np.models.rope import REQUIRED, check_rope, inverse_frequencies, rope_parameters

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


def test_what_is_read_is_left_as_it_was():
    fields = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    rope_parameters(fields)
    assert fields == {"rope_scaling": {"type": "linear", "factor": 2.0}}


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "longrope", "su", "proportional", "", None, 3])
def test_other_kinds_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"rope_type {kind!r} is not supported; supported are {', '.join(REQUIRED)}"):
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
    assert check_rope({**PLAIN, "partial_rotary_factor": 1.0})["rope_theta"] == 10000.0
