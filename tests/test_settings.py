"""Settings as text."""

from dataclasses import dataclass, field

import pytest

from lora_np import LoraConfig, TrainingArguments
from lora_np.lora.family.vera import VeraConfig
from lora_np.settings import changed_settings


@dataclass
class Example:
    needed: int
    plain: float = 1.0
    made: dict = field(default_factory=dict)
    inner: int = field(default=0, init=False)

    __repr__ = changed_settings


def test_what_was_changed_is_shown():
    assert repr(Example(3)) == "Example(needed=3)"
    example = Example(3, 2.0, {"a": 1})
    example.inner = 7
    assert repr(example) == "Example(needed=3, plain=2.0, made={'a': 1})"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (LoraConfig(), "LoraConfig()"),
        (LoraConfig(r=4), "LoraConfig(r=4)"),
        (LoraConfig(target_modules=["c_attn"]), "LoraConfig(target_modules=['c_attn'])"),
        (LoraConfig(task_type="CAUSAL_LM"), "LoraConfig(task_type='CAUSAL_LM')"),
        (VeraConfig(r=3), "VeraConfig(r=3)"),
        (TrainingArguments(steps=5, seed=1), "TrainingArguments(steps=5, seed=1)"),
    ],
)
def test_of_the_library(settings, text):
    assert repr(settings) == text
    assert eval(text) == settings
