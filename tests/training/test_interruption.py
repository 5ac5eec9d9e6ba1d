"""Ctrl-C in the middle of a run."""

import contextlib
import functools
import itertools
import json
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import interruption_helpers
import pytest
from training_helpers import (
    ARGS,
    FILE,
    MODELS,
    CallsBefore,
    StopHereError,
    child,
    full,
    lora,
    run,
    saved_step,
    stop,
    text_data,
    tiny,
    weights,
)

from lora_np import TrainingArguments, train


@pytest.mark.parametrize("step", [6, 99], ids=["broken off", "to the end"])
def test_ctrl_c_has_its_usual_meaning_after_the_run(step):
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(StopHereError):
        run(tiny(), data=CallsBefore(step, stop))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_outside_the_main_thread():
    """Only the main thread may handle signals; a notebook's background thread can train all the same."""
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: run(full())).result() == run(full())


def interrupted(kind, directory):
    """In a process of its own: train; in step 6, say so and wait for a line. Then print the history."""

    def wait():
        print("ready", flush=True)
        sys.stdin.readline()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background would have it ignored
    print(json.dumps(run(MODELS[kind](), directory, CallsBefore(6, wait))))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("kind", MODELS)
def test_ctrl_c_ends_the_run_after_the_step_in_progress(tmp_path, kind):
    process = child(__file__, "interrupted", kind, str(tmp_path))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    partial = json.loads(output)
    assert partial["interrupted"] is True
    assert len(partial["loss"]) == saved_step(tmp_path) == 7

    whole, model = MODELS[kind](), MODELS[kind](1)
    history = run(whole)
    assert partial["loss"] == history["loss"][:7]
    assert run(model, tmp_path, resume=True) == history
    assert weights(model) == weights(whole)


def test_ctrl_c_during_an_evaluation_ends_the_run_behind_it(tmp_path):
    class Held:
        calls = 0

        def batches(self, batch_size):
            self.calls += 1
            if self.calls == 2:  # at step 5; the first is before the first step
                signal.raise_signal(signal.SIGINT)
            yield from text_data().batches(batch_size)

    args = TrainingArguments(**ARGS)
    history = train(lora(), text_data(), args, {"held out": Held()}, tmp_path, progress=False)
    assert [entry["step"] for entry in history["evaluation"]] == [0, 5]
    assert len(history["loss"]) == saved_step(tmp_path) == 5
    assert history["interrupted"]


def interrupted_twice(directory):
    """In a process of its own: train, with two interruptions in step 6. Then print what came of it."""

    def twice():
        signal.raise_signal(signal.SIGINT)
        print("still running", flush=True)
        signal.raise_signal(signal.SIGINT)
        print("still running after the second", flush=True)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(full(), directory, CallsBefore(6, twice))
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path):
    process = child(__file__, "interrupted_twice", str(tmp_path))
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "still running\nKeyboardInterrupt\n")
    whole, model = full(), full(1)
    assert run(model, tmp_path, resume=True) == run(whole)
    assert weights(model) == weights(whole)


def digest(model):
    return hash(tuple(weights(model).items()))


def whole_steps(**settings):
    """What the weights are after 0, 1, ... steps."""
    found = []
    for count in range(settings["steps"] + 1):
        model = lora()
        with contextlib.suppress(StopHereError):
            run(model, data=CallsBefore(count * settings["accumulation"], stop), **settings)
        found.append(digest(model))
    return found


@pytest.mark.parametrize(("error", "accumulation"), [(KeyboardInterrupt, 1), (MemoryError, 2)])
def test_a_run_that_is_broken_off_at_any_line_has_taken_whole_steps(tmp_path, error, accumulation):
    """Also where the optimizer has changed some weights and not yet others. What is on the disk leads to the same end.

    Of the lines of the loop and the optimizer, those with a number that 23 divides.
    """
    settings = {"steps": 3, "checkpoint_every": 1, "accumulation": accumulation}
    expected, seen = whole_steps(**settings), []
    for number in itertools.count(0, 23):
        model, directory = lora(), tmp_path / str(number)
        if not interruption_helpers.interrupted(
            functools.partial(run, model, directory, **settings), number, error, "training"
        ):
            break
        seen.append(expected.index(digest(model)))
        if (directory / FILE).exists() and number % 3 == 0:
            again = lora(1)
            run(again, directory, resume=True, **settings)
            assert digest(again) == expected[-1]
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}
