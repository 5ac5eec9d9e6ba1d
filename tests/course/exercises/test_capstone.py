import numpy as np
import pytest
from exercise_helpers import assert_told, solutions

from lora_course.exercises import capstone as exercise
from lora_course.exercises.capstone import SMALL, check
from lora_np import AdamW, LoraConfig, get_peft_model


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setenv("LORA_NP_BUDGET", "small")


def adapted(model, **changes):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "fan_in_fan_out": True}
    return get_peft_model(model, LoraConfig(**settings | changes))


def learning(model):
    return [p for p in model.parameters() if p.requires_grad]


def test_batches_come_once_and_say_how_many_they_are():
    batches = exercise.Batches(exercise.prose("train", 32, 2), 3)
    assert len(batches) == 3
    assert [ids.shape for ids in batches] == [(2, 32)] * 3
    assert list(batches) == []


def test_held_out_files_are_in_no_batch():
    parts = [set(exercise.texts()[part]) for part in ("train", "validation", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_a_run_is_made_once_and_scored_in_nats_per_byte(monkeypatch):
    calls = []

    def counted(model, batches):
        calls.append(len(batches))
        return exercise.fine_tune(model, batches)

    first, second = exercise.score(counted), exercise.score(counted)
    assert first is second
    assert calls == [SMALL.batches]
    assert first.taken == SMALL.batches
    assert first.loss < exercise.base_loss(SMALL)
    monkeypatch.setattr(exercise, "GRADES", {"very good": first.loss - 0.01, "good": first.loss, "enough": 9.0})
    assert first.grade == "good"


def accumulating(model, batches):
    """A step for every two batches, on purpose: no gradient is forgotten."""
    model = adapted(model)
    optimizer = AdamW(learning(model), lr=1e-2)
    for step, ids in enumerate(batches, 1):
        model(ids, labels=ids).loss.backward()
        if step % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model


def zero_first(model, batches):
    """Gradients put to zero before the backward, not after the step."""
    model = adapted(model, r=2)
    optimizer = AdamW(learning(model), lr=1e-2)
    for ids in batches:
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("way", [accumulating, zero_first])
def test_other_ways_of_a_right_run_are_right(way, capsys):
    way.__name__ = "fine_tune"
    assert check(way) is way
    assert "held-out loss" in capsys.readouterr().out


def everything(model, batches):
    optimizer = AdamW(model.parameters(), lr=1e-3)
    for ids in batches:
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def base_changed(model, batches):
    result = exercise.fine_tune(model, batches)
    weight = next(p for name, p in result.named_parameters() if name.endswith("c_attn.base_layer.weight"))
    weight.data = weight.data + np.float32(1e-3)
    return result


def by_name(model, batches):
    exercise.fine_tune(model, batches)
    return "the model"


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (everything, "no adapter"),
        (base_changed, "the base has changed, in .*c_attn.weight"),
        (by_name, "returns a str"),
    ],
)
def test_further_mistakes_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "fine_tune", capsys)


def test_in_a_full_run_the_loss_has_to_be_reached(monkeypatch, capsys):
    monkeypatch.setattr(exercise, "SMALL", None)  # so that this run counts as a full one
    monkeypatch.setattr(exercise, "plan", lambda: SMALL)
    monkeypatch.setattr(exercise, "GRADES", {"enough": 1.0})

    def slow(model, batches):
        model = adapted(model, r=1)
        optimizer = AdamW(learning(model), lr=1e-4)
        for ids in batches:
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    assert_told(
        check, slow, r"1\.00 is enough\. No number moves further than .* a higher learning rate", "fine_tune", capsys
    )


def test_the_notebook_s_solution_is_the_reference_in_other_words():
    """So what is said of the reference's loss holds for the solution."""
    (solution,) = solutions("capstone").values()
    (found, expected) = (exercise.score(f) for f in (solution, exercise.fine_tune))
    assert found.trained == expected.trained
    assert found.loss == pytest.approx(expected.loss, abs=0.02)
