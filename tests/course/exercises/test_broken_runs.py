import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises import broken_runs as exercise
from lora_course.exercises.broken_runs import ALPHA, CHECKPOINTING, END, FAULTS, NUMBERS, SHIFTED, SQUARE, check


@pytest.fixture(scope="module")
def reports():
    """A healthy run and the five broken ones, half as long as in the notebook."""
    size = {"steps": 12, "batch_size": 10, "held_out": 16}
    return {fault: exercise.run(fault, **size) for fault in (None, *FAULTS)}


SHOWS = {  # what the notebook says shows a fault, as a question to a report and the healthy one
    CHECKPOINTING: lambda run, healthy: min(run.norms) == 0,
    SQUARE: lambda run, healthy: run.trained < healthy.trained,
    ALPHA: lambda run, healthy: abs(run.reloaded - run.loss) > 1e-3,
    SHIFTED: lambda run, healthy: run.by_position[0] > 5,
    END: lambda run, healthy: run.stops == 0,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_shown_by_its_number_and_by_no_other(fault, reports):
    shown = [name for name, shows in SHOWS.items() if shows(reports[fault], reports[None])]
    assert shown == [fault]


def test_the_healthy_run_shows_nothing_and_learns(reports):
    healthy = reports[None]
    assert not [name for name, shows in SHOWS.items() if shows(healthy, healthy)]
    assert healthy.loss < 0.5 < healthy.losses[0]


def test_training_losses_hide_what_is_masked(reports):
    """The notebook says that the two runs with a wrong mask end no higher than the healthy one."""
    healthy = np.mean(reports[None].losses)
    assert np.mean(reports[SHIFTED].losses) < healthy + 0.05
    assert np.mean(reports[END].losses) < healthy


def test_rows_hold_prompt_answer_and_one_end_that_counts():
    ids, answered = exercise.rows(["ab_c"])
    text = bytes(ids[0].tolist()).rstrip(b"\0")
    assert text == b"def ab_c(> AB_C"
    assert bytes(ids[0][answered[0]].tolist()) == b"> AB_C\0"
    assert exercise.labels_of(ids, answered)[0].tolist().count(0) == 1
    assert 0 not in exercise.labels_of(ids, answered, END)
    shifted = exercise.labels_of(ids, answered, SHIFTED)[0]
    assert (shifted == ord(">")).sum() == 0
    assert (shifted != -100).sum() == answered.sum()


def told(**changes):
    right = exercise.diagnosis()
    return lambda: {letter: changes.get(letter, pair) for letter, pair in right.items()}


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (told(A=("", "")), "is not one of FAULTS"),
        (told(A=(FAULTS[0], "loss")), "is not one of NUMBERS"),
        (lambda: list(exercise.diagnosis().items()), "return a dict"),
        (lambda: {"A": exercise.diagnosis()["A"]}, "missing"),
        (lambda: None, "returned nothing"),
    ],
)
def test_the_form_of_a_diagnosis_is_told(mistake, hint, capsys):
    assert_told(check, mistake, hint, "diagnosis", capsys)


@pytest.mark.parametrize("first", FAULTS)
@pytest.mark.parametrize("second", FAULTS)
def test_two_faults_that_have_changed_places_are_told_for_both_runs(first, second, capsys):
    if first == second:
        return
    right = exercise.diagnosis()
    a, b = (next(letter for letter, (fault, _) in right.items() if fault == one) for one in (first, second))
    assert_told(check, told(**{a: right[b], b: right[a]}), f"run {a}: were it", "diagnosis", capsys)
    assert_told(check, told(**{a: right[b], b: right[a]}), f"run {b}: were it", "diagnosis", capsys)


@pytest.mark.parametrize("number", NUMBERS[1:])
def test_the_right_fault_by_the_wrong_number_is_told(number, capsys):
    letter = next(letter for letter, (fault, _) in exercise.diagnosis().items() if fault == SQUARE)
    assert_told(check, told(**{letter: (SQUARE, number)}), "does not prove it", "diagnosis", capsys)
