"""The bar of a run: it shows what is true, and changes nothing."""

import itertools
import os
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm.auto
from training_helpers import ARGS, FILE, Batches, full, run, text_data, tiny, weights

from lora_np import (
    TrainingArguments,
    train,
)
from lora_np.training import progress


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


class Slow:
    """A data set to evaluate, of which each batch takes a while."""

    def __init__(self, seconds, batches):
        self.seconds, self.count = seconds, batches

    def batches(self, batch_size):
        for _ in range(self.count):
            time.sleep(self.seconds)
            yield text_data().batch(0, 0)


def test_evaluations_are_shown_and_are_not_counted_as_steps(monkeypatch, capsys):
    """The time left is that of the steps: without evaluations these take no time to speak of, each of which takes half
    a second."""
    monkeypatch.setattr("lora_np.training.progress.SHOWN_EVERY", 0.01)
    args = TrainingArguments(steps=4, eval_every=2)
    train(tiny(), text_data(), args, {"held out": Slow(0.1, 5)})
    shown = capsys.readouterr().err
    assert "evaluating" in shown
    assert "evaluating, batch 4" in shown
    left = [int(minutes) * 60 + int(seconds) for minutes, seconds in re.findall(r"<(\d\d):(\d\d)", shown)]
    assert left
    assert not any(left), shown
    done = re.findall(r"4/4 \[(\d\d):(\d\d)<", shown)[-1]
    assert int(done[0]) * 60 + int(done[1]) <= 1, "three evaluations of half a second are not among the steps"


def test_outside_of_a_run_nothing_is_shown(capsys):
    from lora_np import evaluate

    evaluate(tiny(), Slow(0, 2))
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("can_start", [True, False])
def test_a_bar_asks_for_a_thread_only_where_one_starts(monkeypatch, can_start):
    asked = []
    monkeypatch.setattr(progress, "CAN_START", can_start)
    monkeypatch.setattr(tqdm.auto.tqdm, "monitor", None)
    monkeypatch.setattr(tqdm.auto.tqdm, "monitor_interval", 10)
    monkeypatch.setattr("tqdm.std.TMonitor", lambda *_args: asked.append(True))
    progress._bar.cache_clear()
    try:
        with progress.Progress(0, 1, shown=True):
            pass
    finally:
        progress._bar.cache_clear()
    assert asked == [True] * can_start
