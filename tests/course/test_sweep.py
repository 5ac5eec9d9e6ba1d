"""The rank sweep: its grid, what is made of its runs, its file."""

import itertools
import json
import math
import sys

import numpy as np
import pytest

from lora_course import sweep as module
from lora_course.adaptation import PROSE, SOURCE, Adaptation
from lora_course.sweep import (
    RANKS,
    RATES,
    RULES,
    SEEDS,
    TARGETS,
    by_targets,
    format_points,
    gain_ratio,
    grid,
    lora_config,
    rate_grid,
    run_point,
    select,
    shipped,
    sweep,
    tuned,
    write,
)
from lora_np import LoraConfig, evaluate

KEYS = ("method", "targets", "rank", "rule", "learning_rate", "seed")


def run(rate, seed, validation, prose=None, source=0.5, targets="MLP", rank=8, method="LoRA", rule="alpha = 2r"):
    """A run as the sweep's file has it."""
    prose = validation if prose is None else prose
    fields = {"method": method, "targets": targets, "rank": rank, "rule": rule, "learning_rate": rate, "seed": seed}
    return {**fields, "validation": validation, "prose": prose, "source": source, "trainable": 100, "seconds": 2.0}


@pytest.fixture(scope="module")
def task():
    return Adaptation(steps=1, batch_size=1, window=32, evaluations=2)


def test_the_grid_has_every_combination_once():
    points = [tuple(point.values()) for point in grid()]
    first = itertools.product(["LoRA"], TARGETS, RANKS, ["alpha = 2r"], RATES["LoRA"], SEEDS)
    others = itertools.product(
        ["LoRA"], ["all linear"], RANKS, ["alpha = 16", "alpha = 16, rsLoRA"], RATES["LoRA"], SEEDS
    )
    references = [
        (name, None, None, None, rate, seed) for name in ("full", "head") for rate in RATES[name] for seed in SEEDS
    ]
    assert all(tuple(point) == KEYS for point in grid())
    assert len(points) == len(set(points)) == 600
    assert set(points) == {*first, *others, *references}


@pytest.mark.parametrize(("rule", "scaling"), [("alpha = 2r", 2), ("alpha = 16", 0.25), ("alpha = 16, rsLoRA", 2)])
def test_the_rules_scale_as_they_say(task, rule, scaling):
    model = task.prepare(lora_config("MLP", 64, rule))
    found = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert found == {scaling}


@pytest.mark.parametrize(
    ("targets", "size"), [("q and v", 2048), ("attention", 3072), ("MLP", 5120), ("all linear", 8192)]
)
def test_the_target_sets_are_what_their_names_say(task, targets, size):
    model = task.prepare(lora_config(targets, 3))
    assert sum(p.size for p in model.parameters() if p.requires_grad) == 3 * size  # r (in + out) of four blocks
    layers = {name.partition(".h.0.")[2] for name, m in model.named_modules() if hasattr(m, "lora_A")} - {""}
    inside = {name.partition(".")[0] for name in layers}
    expected = {"q and v": {"attn"}, "attention": {"attn"}, "MLP": {"mlp"}, "all linear": {"attn", "mlp"}}
    assert inside == expected[targets]


def test_a_point_is_run_as_it_says(task):
    point = {**dict.fromkeys(KEYS), "method": "LoRA", "targets": "MLP", "rank": 2, "rule": "alpha = 16"}
    point |= {"learning_rate": 1e-2, "seed": 1}
    test = {PROSE: task.evaluation[SOURCE], SOURCE: task.evaluation[PROSE]}  # other text than the task's own
    outcome = task.run(LoraConfig(r=2, lora_alpha=16, target_modules=TARGETS["MLP"], fan_in_fan_out=True), 1e-2, 1)
    result = run_point(task, test, point)
    assert {name: result[name] for name in KEYS} == point
    assert result["validation"] == round(outcome.prose, 5)
    assert result["prose"] == round(evaluate(outcome.model, test[PROSE]), 5)
    assert result["source"] == round(evaluate(outcome.model, test[SOURCE]), 5)
    assert result["trainable"] == outcome.trainable == 2 * 5120


@pytest.mark.parametrize("how", ["raised", "last step"])
def test_a_run_that_diverges_has_no_losses(task, monkeypatch, how):
    def broken(*_):
        if how == "raised":
            raise FloatingPointError("the loss became nan")
        return type("Outcome", (), {"prose": math.nan, "model": task.base()})

    monkeypatch.setattr(task, "run", broken)
    point = grid()[0]
    assert run_point(task, task.evaluation, point) == {**point, "validation": None, "prose": None, "source": None}


def test_the_rate_is_chosen_by_validation_not_by_test():
    runs = [run(0.1, 0, 1.0, prose=9.0), run(0.1, 1, 1.2, prose=8.0), run(0.2, 0, 1.1, 0.1), run(0.2, 1, 1.15, 0.1)]
    (point,) = tuned(runs)
    assert point["learning_rate"] == 0.1
    assert point["prose"] == (8.5, pytest.approx(0.5**0.5))  # n - 1: (0.25 + 0.25) / 1
    assert point["source"] == (0.5, 0.0)
    assert point["runs"] == runs[:2]
    assert point["trainable"] == 100


def test_a_rate_at_which_one_seed_diverged_is_out():
    runs = [run(0.1, 0, 2.0), run(0.1, 1, 2.0), run(0.2, 0, 0.1), {**run(0.2, 1, None), "prose": None}]
    assert [point["learning_rate"] for point in tuned(runs)] == [0.1]
    with pytest.raises(ValueError, match="every learning rate diverged"):
        tuned(runs[2:])


@pytest.mark.parametrize(("best", "edge"), [(0.1, True), (0.2, False), (0.3, True)])
def test_a_best_rate_at_the_edge_is_marked(best, edge):
    (point,) = tuned([run(rate, 0, 1.0 if rate == best else 2.0) for rate in (0.1, 0.2, 0.3)])
    assert point["at_edge"] is edge
    table = format_points([point], {"prose": 4.0, "source": 0.25}, 400)
    assert (f"{best}*" in table) is edge
    cells = [cell.strip("*") for cell in table.splitlines()[1].split()]
    assert cells == ["MLP", "8", str(best), "1.0000", "±", "0.0000", "3.000", "0.250", "100", "25.00%", "0", "kB"]


def test_combinations_are_kept_apart_and_in_order():
    full = run(0.1, 0, 3.0, targets=None, rank=None, method="full", rule=None)
    points = tuned([run(0.1, 0, 1.0, rank=8), run(0.1, 0, 2.0, rank=4), full])
    assert [(p["method"], p["rank"], p["prose"][0]) for p in points] == [
        ("LoRA", 8, 1.0),
        ("LoRA", 4, 2.0),
        ("full", None, 3.0),
    ]
    assert by_targets(points) == {"MLP": points[:2], "full training": points[2:]}
    assert by_targets(points, rule="alpha = 16") == {"full training": points[2:]}
    assert select(points, method="LoRA", rank=4) == [points[1]]


def test_the_grid_of_rates_has_means_and_gaps():
    runs = [run(0.1, 0, 1.0), run(0.1, 1, 3.0), run(0.2, 0, 4.0), run(0.2, 1, None)]
    runs += [run(rate, 0, 7.0, rank=2) for rate in (0.1, 0.2)] + [run(0.1, 0, 9.0, rule="alpha = 16")]
    ranks, rates, losses = rate_grid(runs, "alpha = 2r", "MLP", "validation")
    assert (ranks, rates) == ([2, 8], [0.1, 0.2])
    np.testing.assert_array_equal(losses, [[7.0, 7.0], [2.0, math.nan]])


def test_gains_are_compared_seed_by_seed():
    part = {"runs": [run(0.1, 0, 1.0, prose=3.0), run(0.1, 1, 1.0, prose=3.5)]}
    whole = {"runs": [run(0.1, 1, 1.0, prose=2.0), run(0.1, 0, 1.0, prose=2.0)]}
    mean, deviation = gain_ratio(part, whole, base=4.0)
    assert mean == (1 / 2 + 0.5 / 2) / 2
    assert deviation == pytest.approx(0.25 / 2**0.5)


def test_what_is_written_can_be_read(tmp_path, monkeypatch):
    result = {
        "about": {"steps": 2},
        "base": {"prose": 1.5, "source": 1.0},
        "runs": [run(0.1, 0, 1.0), run(0.1, 1, None)],
    }
    path = tmp_path / "rank_sweep.json"
    write(result, path)
    assert len(path.read_text().splitlines()) == 4  # a run is a line
    monkeypatch.setattr(module, "files", lambda package: tmp_path if package == "lora_course" else None)
    assert shipped() == result


def test_what_is_shipped_is_the_whole_grid():
    result = shipped()
    assert [{name: r[name] for name in KEYS} for r in result["runs"]] == grid()
    assert all(r["prose"] is None or 0.9 < r["prose"] < 5 for r in result["runs"])
    assert result["base"]["prose"] > max(p["prose"][0] for p in tuned(result["runs"]))


def test_rules_that_come_to_one_scaling_gave_one_result():
    """alpha = 2r and alpha = 16 are the same at r = 8, and so on: equal runs, whichever rule they are filed under."""
    found = {}
    for r in select(shipped()["runs"], targets="all linear"):
        alpha, rslora = RULES[r["rule"]](r["rank"])
        scaling = alpha / (r["rank"] ** 0.5 if rslora else r["rank"])
        found.setdefault((r["rank"], r["learning_rate"], r["seed"], scaling), set()).add((r["prose"], r["source"]))
    assert len(found) == 21 * 12  # 24 combinations of rule and rank, of which three are there twice
    assert all(len(results) == 1 for results in found.values())


SMALL = {"batch_size": 2, "window": 32, "evaluations": 2}


def test_the_command_line_writes_the_first_runs(tmp_path, monkeypatch, capsys):
    path = tmp_path / "out" / "sweep.json"
    monkeypatch.setattr(module, "Adaptation", lambda **arguments: Adaptation(**arguments, **SMALL))
    monkeypatch.setattr(sys, "argv", ["sweep", "--first", "2", "--steps", "2", "--out", str(path)])
    module.main()
    result = json.loads(path.read_text())
    assert [{name: r[name] for name in KEYS} for r in result["runs"]] == grid()[:2]
    assert [result["about"][name] for name in ("steps", "batch_size", "window")] == [2, 2, 32]
    validation = Adaptation(steps=2, held_out="validation", **SMALL)
    outcome = validation.run(lora_config("q and v", 1), 1e-3, 1)
    assert result["runs"][1]["validation"] == round(outcome.prose, 5)
    assert f"2 runs: {path}" in capsys.readouterr().out


def test_several_processes_give_what_one_gives():
    points = grid()[-2:]
    alone, together = (sweep(points, jobs, steps=1, **SMALL) for jobs in (1, 2))
    for result in (alone, together):
        for r in result["runs"]:
            r.pop("seconds")
    assert alone == together


def test_the_base_is_measured_on_test_text():
    result, task = sweep([], steps=1, **SMALL), Adaptation(steps=1, held_out="test", **SMALL)
    for kind, name in (("prose", PROSE), ("source", SOURCE)):
        assert result["base"][kind] == round(evaluate(task.base(), task.evaluation[name]), 5)
