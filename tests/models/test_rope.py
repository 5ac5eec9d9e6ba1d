"""Rotary frequencies: by their definitions, against Transformers, and what config files of all ages say about them."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz

from lora_np.models import LlamaConfig
from lora_np.models.rope import (
    ORIGINAL,
    PART,
    REQUIRED,
    attention_factor,
    check_rope,
    context_length,
    inverse_frequencies,
    rope_parameters,
)

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


FACTORS = {"short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}
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
    "yarn without a context": {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 64},
    "yarn and a context beside it": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32},
        ORIGINAL: 16,
    },
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


@pytest.mark.parametrize("kind", [["linear"], "mrope", "su", "axial", "proportional", "ntk", "", None, 3])
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
    parameters = {**LLAMA_3_1, "rope_type": kind, **FACTORS, name: value}
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


def test_a_part_of_each_head_is_refused_where_transformers_has_none():
    """Its Llama passes over the part with plain positions, and fails with others."""
    with pytest.raises(ValueError, match=r"part of each head \(partial_rotary_factor\) are not a llama model's"):
        LlamaConfig.from_dict({"partial_rotary_factor": 0.5})
    assert LlamaConfig.from_dict({"partial_rotary_factor": None}).rope_parameters == PLAIN
    assert LlamaConfig.from_dict({"partial_rotary_factor": 1.0}).rope_parameters["rope_theta"] == 10000.0


@pytest.mark.parametrize("value", ["0.5", True, -0.1, 1.5, float("nan"), [0.5]])
def test_a_part_that_makes_no_sense_is_refused(value):
    with pytest.raises(ValueError, match=r"partial_rotary_factor, .* must be from 0 to 1, got"):
        check_rope({**PLAIN, "partial_rotary_factor": value})


YARN = {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 32}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "yarn", ORIGINAL: 32}, "rope_type 'yarn' needs a factor"),
        ({**YARN, "factor": 0}, "factor must be a positive number, got 0"),
        ({**YARN, "rope_theta": 1}, "'yarn' needs a rope_theta other than 1"),
        ({**YARN, "attention_factor": "1"}, "attention_factor must be a number of at least 0, got '1'"),
        ({**YARN, "beta_fast": -1}, "beta_fast must be a number of at least 0, got -1"),
        ({**YARN, "mscale": float("nan")}, "mscale must be a number of at least 0, got nan"),
        ({**YARN, "truncate": 1}, "truncate must be true or false, got 1"),
        ({**FACTORS, "rope_type": "longrope", ORIGINAL: 1}, f"'longrope' needs an {ORIGINAL} above 1, got 1"),
        ({**FACTORS, "rope_type": "longrope", ORIGINAL: 8, "factor": "x"}, "factor must be a positive number, got 'x'"),
        ({"rope_type": "longrope", ORIGINAL: 8}, "'longrope' needs short_factor, a list of positive numbers, got None"),
        (
            {**FACTORS, "rope_type": "longrope", ORIGINAL: 8, "long_factor": [1.0, 0]},
            r"'longrope' needs long_factor, a list of positive numbers, got \[1.0, 0\]",
        ),
        (
            {**FACTORS, "rope_type": "longrope", ORIGINAL: 8, "long_factor": [1.0]},
            "long_factor must have 2 numbers, one for each pair of channels, got 1",
        ),
    ],
)
def test_what_the_newer_kinds_need_is_said(parameters, message):
    with pytest.raises(ValueError, match=message):
        check_rope(parameters, head_dim=4)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 100),
        ({"rope_type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "linear", "factor": 0.5}, 100),
        ({"rope_type": "dynamic", "factor": 2.5}, 250),
        ({**YARN, ORIGINAL: 100}, 400),
        ({**YARN, ORIGINAL: 25}, 100),
        ({**YARN, "factor": None}, 100),
        (LLAMA_3_1, 100),
        ({**FACTORS, "rope_type": "longrope", ORIGINAL: 8}, 100),
    ],
)
def test_a_stretched_context_is_as_long_as_it_was_stretched(parameters, expected):
    config = LlamaConfig(max_position_embeddings=100, head_dim=4, rope_parameters=parameters)
    assert context_length(config) == expected
    assert config.max_position_embeddings == 100


positive = st.floats(0.3, 40)


@st.composite
def stretched(draw):
    """(head_dim, the part that turns, the fields of a config.json) of each kind, in the old or the new spelling."""
    kind, head_dim = draw(st.sampled_from(list(REQUIRED))), 2 * draw(st.integers(2, 20))
    part = draw(st.sampled_from([None, 1.0, 0.25, 0.5, 0.77] if head_dim > 10 else [None]))
    if kind == "yarn" and int(head_dim * (part or 1.0)) % 2:  # Transformers' fails for an odd number of channels
        part = None
    pairs = (int(head_dim * (part or 1.0)) + 1) // 2
    own = {"factor": draw(positive)}
    if kind in ("yarn", "longrope"):
        own = {"factor": draw(positive | st.none())}
        if draw(st.booleans()):
            own["attention_factor"] = draw(positive | st.none())
    if kind == "yarn":
        maybe = {name: draw(positive | st.none()) for name in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
        own |= {name: value for name, value in maybe.items() if draw(st.booleans())}
        own |= {"truncate": draw(st.booleans())} if draw(st.booleans()) else {}
    if kind == "longrope":
        own |= {name: [draw(positive) for _ in range(pairs)] for name in ("short_factor", "long_factor")}
    if kind == "llama3":
        own |= {"low_freq_factor": draw(st.floats(0.5, 2)), "high_freq_factor": draw(st.floats(2.1, 8))}
    if kind in ("llama3", "yarn", "longrope") and draw(st.booleans()):
        own[ORIGINAL] = draw(st.integers(2, 60))
    own = {} if kind == "default" else own
    beside = {"max_position_embeddings": draw(st.integers(2, 80))}
    theta, old = draw(st.floats(3, 1e6)), draw(st.booleans())
    if old:
        fields = {"rope_theta": theta, "rope_scaling": {draw(st.sampled_from(["type", "rope_type"])): kind, **own}}
    else:
        fields = {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **own}}
    if part is not None:
        (fields if old else fields["rope_parameters"])[PART] = part
    return head_dim, {**beside, **fields}


class Turning(LlamaConfig):
    """A Llama of which a part of each head may turn."""

    turns_a_part = True


@pytest.mark.parity
@settings(fuzz, max_examples=150)
@given(stretched(), st.integers(1, 200))
def test_whatever_the_parameters_frequencies_and_factor_are_transformers(case, length):
    import torch
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    transformers.logging.set_verbosity_error()
    head_dim, fields = case
    ours = Turning.from_dict({"hidden_size": 2 * head_dim, "num_attention_heads": 2, **fields})
    theirs = transformers.LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, **json.loads(json.dumps(fields)))
    kind = ours.rope_parameters["rope_type"]
    compute = ROPE_INIT_FUNCTIONS.get(kind) or Phi3RotaryEmbedding.compute_default_rope_parameters
    frequencies, factor = compute(theirs, torch.device("cpu"), seq_len=length)
    found = inverse_frequencies(head_dim, ours.rope_parameters, ours.max_position_embeddings, length)
    np.testing.assert_allclose(found, frequencies.numpy(), rtol=3e-6)
    assert attention_factor(ours.rope_parameters, ours.max_position_embeddings) == pytest.approx(factor, rel=1e-12)
    again = Turning.from_dict(ours.to_dict())
    assert again.rope_parameters == ours.rope_parameters
