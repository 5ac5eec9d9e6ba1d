"""GenerationConfig: Transformers' fields, files both ways, and what is refused."""

import json
import math

import numpy as np
import pytest
from lora_helpers import tiny_config, tiny_model

from lora_np import AutoModelForCausalLM, GenerationConfig
from lora_np.models.generation.config import FIELDS, NAMES, ORIGIN

SAID = {"max_new_tokens": 6, "num_beams": 2, "eos_token_id": [1, 2], "early_stopping": "never", "top_p": 0.5}


@pytest.mark.parity
def test_the_fields_are_transformers():
    import transformers

    assert set(transformers.GenerationConfig().to_dict()) - set(ORIGIN) == set(NAMES)


@pytest.mark.parity
def test_files_are_read_by_both(tmp_path):
    import transformers

    GenerationConfig(**SAID).save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(theirs, name) for name in SAID} == SAID
    theirs.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == GenerationConfig(**SAID)


@pytest.mark.parity
@pytest.mark.parametrize("fields", [{}, {"eos_token_id": None}, {"eos_token_id": 5}, {"pad_token_id": 4}], ids=str)
def test_a_models_config_counts_only_without_a_file_as_in_transformers(tmp_path, fields):
    import transformers

    tiny_model(eos_token_id=7).save_pretrained(tmp_path)
    for written in (False, True):
        if written:
            (tmp_path / "generation_config.json").write_text(json.dumps(fields))
        ours = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_what_is_not_said_is_none():
    config = GenerationConfig(top_k=3)
    assert config.top_k == 3
    assert all(getattr(config, name) is None for name in NAMES if name != "top_k")
    assert config.to_diff_dict() == {"top_k": 3}
    assert repr(config) == 'GenerationConfig {\n  "top_k": 3\n}\n'


def test_update_says_what_it_does_not_know_and_changes_nothing_with_an_error():
    config = GenerationConfig(**SAID)
    assert config.update(top_p=0.25, colour="red") == {"colour": "red"}
    assert config == GenerationConfig(**{**SAID, "top_p": 0.25})
    with pytest.raises(ValueError, match="top_k must be an integer of at least 0, got -1"):
        config.update(top_p=0.75, top_k=-1)
    assert config.top_p == 0.25


def test_fields_that_are_not_known_are_kept_in_files(tmp_path):
    fields = {"top_k": 3, "transformers_version": "4.1", "something": {"new": 1}}
    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    GenerationConfig.from_pretrained(tmp_path, top_k=4).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == {**fields, "top_k": 4}


def test_where_a_file_is_from_is_no_difference():
    assert GenerationConfig.from_dict({"top_k": 3, "transformers_version": "4.1"}) == GenerationConfig(top_k=3)
    assert GenerationConfig(top_k=3) != GenerationConfig(top_k=4)
    assert GenerationConfig(top_k=3) != {"top_k": 3}


def test_a_bias_is_written_as_a_list(tmp_path):
    GenerationConfig(sequence_bias={(1, 2): 0.5}, eos_token_id=np.array([1])).save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert (again.sequence_bias, again.eos_token_id) == ([[[1, 2], 0.5]], [1])


def test_only_what_a_models_config_does_not_say_is_written(tmp_path):
    model = tiny_model(eos_token_id=7)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()
    model.generation_config.max_length = 9
    model.save_pretrained(tmp_path)
    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert found == {"bos_token_id": tiny_config().bos_token_id, "eos_token_id": 7, "max_length": 9}


def test_a_config_json_may_say_more_than_the_model_knows(tmp_path):
    """Old files have it there."""
    tiny_model(eos_token_id=7).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "pad_token_id": 5}))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.pad_token_id == 5


GOOD = {("stop_strings", "x"), ("length_penalty", -7)}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["x", [["x"]], {"a": 1}, math.nan, math.inf, -7, 10**400], ids=lambda v: repr(v)[:9])
def test_odd_values_are_refused(name, value):
    if isinstance(value, str | int) and (name, value) in GOOD:
        assert getattr(GenerationConfig(**{name: value}), name) == value
        return
    for make in (GenerationConfig, lambda **fields: GenerationConfig.from_dict(fields)):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            make(**{name: value})


def test_a_model_takes_a_config_or_a_mapping_and_nothing_else():
    model = tiny_model()
    model.generation_config = {"top_k": 3}
    assert model.generation_config == GenerationConfig(top_k=3)
    with pytest.raises(TypeError, match=r"generation_config should be a GenerationConfig\(...\), got a str: 'x'"):
        model.generation_config = "x"
    assert model.generation_config.top_k == 3


def test_a_field_that_there_is_not_is_named_with_the_nearest():
    with pytest.raises(TypeError, match=r"GenerationConfig has no field 'max_token'; did you mean 'max_new_tokens'\?"):
        GenerationConfig(max_token=3)


def test_a_file_that_is_not_there_or_is_damaged_is_named(tmp_path):
    with pytest.raises(TypeError, match="GenerationConfig has no field 'max_token'"):
        GenerationConfig.from_pretrained(tmp_path, max_token=3)
    with pytest.raises(FileNotFoundError, match=r"generation_config\.json does not exist"):
        GenerationConfig.from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"top_k": "x"}')
    with pytest.raises(ValueError, match=r"generation_config\.json: top_k must be an integer of at least 0, got 'x'"):
        GenerationConfig.from_pretrained(tmp_path)
