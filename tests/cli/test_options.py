"""What is left open follows from the base."""

import pytest

from lora_np.cli.finetune import finetune
from lora_np.cli.options import FinetuneOptions


def test_what_suits_the_base_fills_in_what_was_not_given():
    tiny, other = FinetuneOptions().resolved(256), FinetuneOptions(base="else").resolved(8192)
    assert (tiny.batch_size, tiny.learning_rate, tiny.max_length) == (16, 1e-2, 256)
    assert (other.batch_size, other.learning_rate, other.max_length) == (4, 1e-3, 256)
    assert FinetuneOptions(base="else").resolved(100).max_length == 100
    assert FinetuneOptions(batch_size=3, learning_rate=1.0, max_length=7).resolved(256).max_length == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
        ({"rank": 0}, "r must be .*0"),
        ({"dropout": 1.0}, "lora_dropout must be .*1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
    ],
)
def test_what_makes_no_sense_with_any_base_is_refused_before_one_is_loaded(given, message, monkeypatch):
    monkeypatch.setattr("lora_np.cli.finetune.AutoModelForCausalLM", None)
    with pytest.raises(ValueError, match=message):
        finetune(FinetuneOptions(**given))


def test_data_that_is_not_there_is_said_before_a_base_is_loaded(monkeypatch):
    monkeypatch.setattr("lora_np.cli.finetune.AutoModelForCausalLM", None)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt does not exist"):
        finetune(FinetuneOptions(data="nowhere.txt"))


@pytest.mark.parametrize("length", [257, 1000])
def test_a_max_length_that_does_not_fit_is_refused(length):
    with pytest.raises(ValueError, match=f"max_length must be from 2 to the model's context of 256, got {length}"):
        FinetuneOptions(max_length=length).resolved(256)
