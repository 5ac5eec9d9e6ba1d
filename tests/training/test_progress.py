"""The bar of a run: it shows what is true, and changes nothing."""

import itertools
import os
import re
from types import SimpleNamespace

import numpy as np
from training_helpers import ARGS, FILE, Batches, full, run, text_data, tiny, weights

from lora_np import (
    TrainingArguments,
    train,
)


def test_progress_and_directories_change_no_number(tmp_path, capsys):
    model, other = full(), full()
    history = run(model)
    shown = train(
        other, text_data(), TrainingArguments(**ARGS), {"held out": text_data().windows()[:5]}, tmp_path / "new" / "one"
    )
    assert shown == history
    assert weights(other) == weights(model)
    assert "12/12" in capsys.readouterr().err
    assert os.listdir(tmp_path / "new" / "one") == [FILE]


def test_progress_shows_the_tokens_of_a_second_without_padding(monkeypatch, capsys):
    """The clock says that every step takes a second. Prompts are counted, for they are computed too; padding is not."""
    monkeypatch.setattr("lora_np.training.progress.time", SimpleNamespace(perf_counter=itertools.count().__next__))
    ids = np.arange(1, 49).reshape(4, 12)
    labels = ids.copy()
    labels[0, 5:] = labels[1, :11] = labels[2, 1:] = labels[3, 3:7] = -100
    labels[2, 0] = -100  # all of it padding
    history = train(tiny(), Batches([ids] * 4, [labels] * 4), TrainingArguments(steps=2, accumulation=2))
    shown = capsys.readouterr().err
    assert f"loss={history['loss'][-1]:.3f}, {2 * (5 + 12 + 0 + 12)} tokens/s" in shown
    assert re.search(r"2/2 \[00:\d\d<00:\d\d", shown), "the time left"
