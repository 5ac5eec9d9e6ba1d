"""Callbacks: what they are told, when, and that they may end a run; beside Transformers' own Trainer."""

import re

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, tiny_model

from lora_np import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments

EVENTS = ("init_end", "train_begin", "train_end", "epoch_begin", "epoch_end", "step_begin", "step_end", "log")
EVENTS = tuple(f"on_{name}" for name in (*EVENTS, "evaluate", "save", "predict"))
ROWS = [{"input_ids": [i, i + 1, 6 * i], "labels": [-100, i + 1, 6 * i]} for i in range(1, 5)]
OPTIONS = {"per_device_train_batch_size": 2, "learning_rate": 0.01, "logging_steps": 1, "eval_on_start": True}
OPTIONS |= {"report_to": "none", "disable_tqdm": True, "optim": "adamw_torch", "lr_scheduler_type": "linear"}
STEPS = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
EPOCHS = {"num_train_epochs": 3, "eval_strategy": "epoch", "save_strategy": "epoch"}


def recorder(base, asks=lambda event, state: False):
    """(a callback that asks for the end where `asks` says so, the list of what it is told)."""
    told = []

    def method(event):
        def called(self, args, state, control, model=None, processing_class=None, logs=None, metrics=None, **about):
            found = sorted(
                name for name in logs or metrics or () if re.fullmatch(r"(eval|train|test)?_?[abr]?_?loss", name)
            )
            told.append((event, state.global_step, round(state.epoch or 0, 6), found))
            assert model is not None
            if asks(event, state):
                control.should_training_stop = True
            return control if event == "on_step_end" else None

        return called

    return type("Recorder", (base,), {event: method(event) for event in EVENTS}), told


def collator(array):
    return lambda rows: {name: array([row[name] for row in rows]) for name in ("input_ids", "labels")}


def ours(folder, callbacks, model=None, **options):
    args = TrainingArguments(folder, **OPTIONS, **options)
    return Trainer(model or tiny_model(), args, collator(np.array), ROWS, ROWS, callbacks=callbacks)


def theirs(folder, callbacks, model=None, **options):
    import torch
    import transformers

    twin = hugging_face_twin(model or tiny_model())
    args = transformers.TrainingArguments(folder, **OPTIONS, **options, use_cpu=True)
    return transformers.Trainer(twin, args, collator(torch.tensor), ROWS, ROWS, callbacks=callbacks)


def both(tmp_path, asks=lambda event, state: False, **options):
    """What each library told of a run, then `evaluate` and `predict`, and the Trainers."""
    import transformers

    found = []
    for make, base in ((ours, TrainerCallback), (theirs, transformers.TrainerCallback)):
        callback, told = recorder(base, asks)
        trainer = make(tmp_path / make.__name__, [callback], **options)
        trainer.train()
        trainer.evaluate()
        trainer.predict(ROWS)
        found.append((told, trainer))
    return found


@pytest.mark.parity
@pytest.mark.parametrize(
    "options", [STEPS, {**STEPS, "max_steps": 5}, {**STEPS, "eval_steps": 3, "max_steps": 3}, EPOCHS]
)
def test_callbacks_are_told_what_transformers_tells_them(tmp_path, options):
    (told, own), (expected, other) = both(tmp_path, **options)
    assert told == expected
    assert own.state.global_step == other.state.global_step
    assert own.state.max_steps == other.state.max_steps
    assert own.state.num_train_epochs == other.state.num_train_epochs
    for name in ("eval_loss", "loss", "train_loss"):
        logs = [[entry[name] for entry in one.state.log_history if name in entry] for one in (own, other)]
        assert len(logs[0]) == len(logs[1]) > 0


@pytest.mark.parity
@pytest.mark.parametrize(
    ("event", "step"),
    [("on_step_end", 3), ("on_step_begin", 2), ("on_log", 4), ("on_evaluate", 2), ("on_save", 2), ("on_epoch_end", 2)],
)
def test_a_run_ends_where_transformers_ends_it(tmp_path, event, step):
    """But for the evaluation and the checkpoint, which here are those of the last step."""
    (told, _), (expected, _) = both(tmp_path, lambda at, state: (at, state.global_step) == (event, step), **STEPS)
    after = "on_train_end"
    until = [[entry[0] for entry in one].index(after) for one in (told, expected)]
    kinds = [
        [entry for entry in one[:end] if entry[0] != "on_save"]
        for one, end in zip((told, expected), until, strict=True)
    ]
    assert kinds[0] == kinds[1]


ACCURACIES = [0.1, 0.3, 0.5, 0.55, 0.5, 0.7, 0.6, 0.7, 0.65, 0.8]  # the first before the first step
EARLY = {"max_steps": 9, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
EARLY |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}


def stopped(trainer, values=ACCURACIES):
    """(the step at which it ended, the best step, its value) with these accuracies."""
    values = iter(values)
    trainer.compute_metrics = lambda found: {"accuracy": next(values)}
    trainer.train()
    return trainer.state.global_step, trainer.state.best_global_step, trainer.state.best_metric


@pytest.mark.parity
@pytest.mark.parametrize(
    ("options", "changes", "step"),
    [
        ({}, {}, 4),
        ({"early_stopping_patience": 2}, {}, 7),
        ({"early_stopping_threshold": 0.1}, {}, 3),
        ({"early_stopping_patience": 3}, {"max_steps": 5}, 5),
        ({"early_stopping_patience": 2}, {"greater_is_better": False}, 7),
    ],
)
def test_it_stops_early_where_transformers_does(tmp_path, options, changes, step):
    """Transformers' own callback does here what ours does."""
    import transformers

    values = [-a for a in ACCURACIES] if "greater_is_better" in changes else ACCURACIES
    settings, kind = {**EARLY, **changes}, transformers.EarlyStoppingCallback
    expected = stopped(theirs(tmp_path / "theirs", [kind(**options)], **settings), values)
    assert stopped(ours(tmp_path / "ours", [EarlyStoppingCallback(**options)], **settings), values) == expected
    assert stopped(ours(tmp_path / "mixed", [kind(**options)], **settings), values) == expected
    assert expected[0] == step


def test_where_losses_are_known_later_the_log_is_the_same(tmp_path, monkeypatch):
    """As on a GPU, where they are looked at every ten steps, before an evaluation and at the end."""
    told, logs = [], []
    for later in (False, True):
        monkeypatch.setattr("lora_np.training.watch.on_gpu", lambda x, later=later: later)
        callback, found = recorder(
            TrainerCallback, lambda event, state: (event, state.global_step) == ("on_step_end", 14)
        )
        own = ours(tmp_path / str(later), [callback], **{**STEPS, "max_steps": 20, "eval_steps": 12, "save_steps": 100})
        own.train()
        told.append(found)
        logs.append(own.state.log_history)
    assert logs[0] == logs[1]
    steps = [[entry for entry in one if entry[0] != "on_log"] for one in told]
    assert steps[0] == steps[1]
    assert told[0] != told[1]


@pytest.mark.parity
@pytest.mark.parametrize("nans", [[0], [0, 1], [2, 3]])
def test_no_accuracy_is_worse_than_nan(tmp_path, nans):
    """As a correlation is, of what is the same for all rows."""
    import transformers

    values = [float("nan") if i in nans else a for i, a in enumerate(ACCURACIES)]
    kind = transformers.EarlyStoppingCallback
    expected = stopped(theirs(tmp_path / "theirs", [kind(2)], **EARLY), values)
    assert stopped(ours(tmp_path / "ours", [EarlyStoppingCallback(2)], **EARLY), values) == expected


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "accuracy"])
def test_evaluations_under_another_name_do_not_end_a_run(tmp_path, metric):
    """Of a callback that looks at other data meanwhile; and after the run, of a test."""
    other = [{"input_ids": [7, 8, 9], "labels": [-100, 20, 25]}]

    class Other(TrainerCallback):
        def on_step_end(self, args, state, control, **about):
            own.evaluate(other, metric_key_prefix="train")

    early = EarlyStoppingCallback(2)
    own = ours(tmp_path, [early, Other], **{**EARLY, "metric_for_best_model": metric})
    own.compute_metrics = lambda found: {"accuracy": own.state.global_step * (len(found.label_ids) - 1)}
    own.train()
    assert own.state.global_step == 9
    assert own.evaluate(other, metric_key_prefix="test")["test_accuracy"] == 0
    assert early.early_stopping_patience_counter == 0


def test_what_the_run_began_with_is_one_to_be_better_than(tmp_path):
    """As load_best has it: the weights of step 0 are those that the model has in the end."""
    own = ours(tmp_path, [EarlyStoppingCallback(2)], **EARLY)
    assert stopped(own, [0.5, 0.4, 0.4, 0.9]) == (2, 0, 0.5)
    assert own.state.best_model_checkpoint == str(tmp_path)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "each of callbacks should be a TrainerCallback", lambda: ours("out", [print])),
        (TypeError, "callbacks should be a list of TrainerCallbacks", lambda: ours("out", EarlyStoppingCallback())),
        (TypeError, "Own has its own on_substep_end", lambda: type("Own", (TrainerCallback,), {"on_substep_end": 1})),
        (AttributeError, "should_save does nothing here", lambda: setattr(TrainerControl(), "should_save", True)),
        (ValueError, "early_stopping_patience must be at least 1", lambda: EarlyStoppingCallback(0)),
        (TypeError, "early_stopping_threshold should be a number", lambda: EarlyStoppingCallback(1, "a")),
    ],
)
def test_what_does_nothing_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_early_stopping_needs_an_evaluation(tmp_path):
    own = ours(tmp_path, [EarlyStoppingCallback], max_steps=2)
    own.eval_dataset = None
    with pytest.raises(ValueError, match="EarlyStoppingCallback needs an evaluation: give Trainer an eval_dataset"):
        own.train()


def test_a_run_that_a_callback_ended_goes_on(tmp_path):
    whole = ours(tmp_path / "whole", None, **STEPS)
    whole.train()
    callback, told = recorder(TrainerCallback, lambda event, state: state.global_step == 3)
    own = ours(tmp_path / "parts", [callback], **STEPS)
    own.train()
    assert own.state.global_step == 3
    own.callback_handler.callbacks.clear()
    own.add_callback(recorder(TrainerCallback)[0])
    own.train(resume_from_checkpoint=True)
    assert own.history == whole.history
    assert own.state == whole.state
    assert ("on_train_begin", 0, 0, []) in told


@pytest.mark.parametrize("make", [ours, pytest.param(theirs, marks=pytest.mark.parity)])
def test_callbacks_are_taken_out_again(tmp_path, make):
    base = TrainerCallback if make is ours else pytest.importorskip("transformers").TrainerCallback
    first, second = (type(name, (base,), {}) for name in ("First", "Second"))
    one, other = first(), first()
    trainer = make(tmp_path, [one, other, second])
    assert trainer.pop_callback(other) is other
    assert trainer.pop_callback(first) is one
    assert trainer.pop_callback(first) is None
    trainer.remove_callback(first)
    trainer.remove_callback(second)
    left = trainer.callback_handler.callbacks
    assert not {one, other} & set(left)
    assert not any(isinstance(callback, second) for callback in left)
    with pytest.raises(ValueError, match="First" if make is ours else "not in list"):
        trainer.remove_callback(one)
