"""What a training run is told."""

import math

import pytest

from lora_np import (
    TrainingArguments,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps.*0"),
        ({"steps": 2.5}, "steps.*2.5"),
        ({"accumulation": -1}, "accumulation.*-1"),
        ({"eval_every": 0}, "eval_every.*0"),
        ({"checkpoint_every": "often"}, "checkpoint_every.*often"),
        ({"learning_rate": 0}, "learning_rate.*0"),
        ({"learning_rate": -1e-3}, "learning_rate.*-0.001"),
        ({"learning_rate": math.nan}, "learning_rate.*nan"),
        ({"learning_rate": math.inf}, "learning_rate.*inf"),
        ({"max_grad_norm": -1.0}, "max_grad_norm.*-1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingArguments(**settings)
