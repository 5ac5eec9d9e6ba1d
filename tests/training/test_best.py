"""load_best: the weights of the best evaluation, kept beside the last."""

import math

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from training_helpers import (
    ARGS,
    FILE,
    KINDS,
    CallsBefore,
    StopHereError,
    full,
    lora,
    run,
    stop,
    text_data,
    weights,
)

from lora_np import TrainingArguments, evaluate, train
from lora_np.training.best import best_of

# The model learns, and is then driven off: the lowest loss is neither the first nor the last.
WORSE = {"learning_rate": 1.0, "warmup_steps": 12, "min_lr_ratio": 1.0, "steps": 16, "eval_every": 2}


def held_out():
    return text_data().windows()[:5]


@KINDS
def test_the_best_weights_are_loaded_in_the_end(tmp_path, make):
    last, best = make(), make()
    history = run(last, **WORSE)
    again = run(best, tmp_path, **WORSE, load_best=True)
    found = best_of(history["evaluation"], TrainingArguments())
    assert again == {**history, "best": found}
    losses = [entry["held out"] for entry in history["evaluation"]]
    assert found["held out"] == min(losses) == evaluate(best, held_out()) < losses[-1] == evaluate(last, held_out())
    assert 0 < found["step"] < 16
    trained = [name for name, p in last.named_parameters() if p.requires_grad]
    file = load_file(tmp_path / FILE)
    for name in trained:
        assert file[f"model.{name}"].tobytes() == weights(last)[name]
        assert file[f"best.{name}"].tobytes() == weights(best)[name]


def test_the_highest_loss_is_not_the_best():
    """The name of a data set does not end with "loss", so greater_is_better would be True."""
    with pytest.raises(ValueError, match=r"'held out' is a data set, of whose loss .*: write held out_loss"):
        run(lora(), **WORSE, load_best=True, metric_for_best_model="held out")
    histories = [
        run(lora(), **WORSE, load_best=True, **told)
        for told in (
            {},
            {"metric_for_best_model": "held out_loss"},
            {"metric_for_best_model": "held out", "greater_is_better": False},
        )
    ]
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.parametrize("broken_off", [3, 9, 13])
def test_a_run_that_goes_on_knows_the_best_of_before(tmp_path, broken_off):
    whole, model = lora(), lora(1)
    history = run(whole, **WORSE, load_best=True)
    with pytest.raises(StopHereError):
        run(lora(), tmp_path, CallsBefore(broken_off, stop), **WORSE, load_best=True, checkpoint_every=2)
    settings = {**WORSE, "load_best": True, "checkpoint_every": 2}
    assert run(model, tmp_path, resume=True, **settings) == history
    assert weights(model) == weights(whole)


def test_a_finished_run_gives_the_best_again(tmp_path):
    whole, model = lora(), lora(1)
    run(whole, tmp_path, **WORSE, load_best=True)
    run(model, tmp_path, resume=True, **WORSE, load_best=True)
    assert weights(model) == weights(whole)


def test_of_several_data_sets_the_first_counts_and_of_equal_losses_the_earliest():
    evaluations = [
        {"step": 0, "a": 2.0, "b": 1.0},
        {"step": 5, "a": 1.0, "b": 2.0},
        {"step": 9, "a": 1.0, "b": 0.0},
    ]
    assert best_of(evaluations, TrainingArguments()) is evaluations[1]


def test_a_run_that_only_makes_it_worse_leaves_what_there_was():
    model, untouched = full(), full()
    args = TrainingArguments(**{**ARGS, "learning_rate": 10.0, "warmup_steps": 0, "load_best": True})
    history = train(model, text_data(), args, {"held out": held_out()}, progress=False)
    assert best_of(history["evaluation"], TrainingArguments())["step"] == 0
    assert weights(model) == weights(untouched)


def test_without_an_evaluation_nobody_knows_which_is_best():
    before = weights(model := lora())
    for evaluation in (None, {}):
        with pytest.raises(ValueError, match=r"load_best needs an evaluation"):
            train(model, text_data(), TrainingArguments(load_best=True), evaluation, progress=False)
    assert weights(model) == before


@pytest.mark.parametrize("first", [True, False])
def test_a_run_is_not_gone_on_with_otherwise(tmp_path, first):
    run(full(), tmp_path, load_best=first)
    with pytest.raises(ValueError, match=rf"other arguments: load_best was {first}, now {not first}"):
        run(full(1), tmp_path, resume=True, load_best=not first)


@pytest.mark.parametrize("spoil", ["missing", "not finite"])
def test_a_checkpoint_with_a_broken_best_is_refused(tmp_path, spoil):
    run(full(), tmp_path, load_best=True)
    with safe_open(tmp_path / FILE, "np") as file:
        metadata = file.metadata()
    arrays = load_file(tmp_path / FILE)
    name = next(name for name in arrays if name.startswith("best."))
    if spoil == "missing":
        del arrays[name]
    else:
        arrays[name] = np.full_like(arrays[name], math.nan)
    save_file(arrays, tmp_path / FILE, metadata)
    model = full(1)
    before = weights(model)
    with pytest.raises(ValueError, match=rf"{FILE} .*(best|another model)"):
        run(model, tmp_path, resume=True, load_best=True)
    assert weights(model) == before
