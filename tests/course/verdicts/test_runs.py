"""The data sets: what is shipped, what a run does, what the command writes."""

import json
import re
import sys

import numpy as np
import pytest

from lora_course.verdicts import command, family, four_bits, points, shipped
from lora_course.verdicts.command import Command, Here
from lora_course.verdicts.data import key_of, made
from lora_course.verdicts.page import NAMES, ON_CPU, PAGE, all_verdicts, page
from lora_course.verdicts.points import PLANS, SETTINGS, lora, settings
from lora_course.verdicts.runs import OWN, Bench, Mixed, lora_config, turn_start, with_rows
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN, above, below, decided
from lora_np.lora.analysis import intruder_dimensions

TINY = {"steps": 3, "batch": 2, "window": 32, "evaluations": 2, "marks": (1, 3)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "SMALL", TINY)
        patch.setattr("lora_course.verdicts.runs.STRENGTHS", (0.5,))
        yield Bench(small=True, bases=tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_the_plan(name):
    data = shipped(name)
    runs = data["runs"]
    made, planned = ({key_of(run) for run in found} for found in (runs, PLANS[name](runs)))
    assert made == planned
    assert len({key_of(run) for run in runs}) == len(runs)
    assert data["about"]["command"].startswith(f"python -m lora_course.verdicts {name}")
    assert data["about"]["device"] == ("2 CPU cores" if name in ON_CPU else "NVIDIA H200")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", data["about"]["date"])
    assert not data["about"]["small"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("times", *OWN)])
def test_every_run_was_looked_at_where_it_should_be(name):
    data = shipped(name)
    for run in data["runs"]:
        assert tuple(run["step"]) == settings(name, run)["marks"]
        assert {len(run[loss]) for loss in ("validation", "prose", "source")} == {len(run["step"])}
        assert min(run["prose"]) > 0.9
        assert not run["diverged"]


@pytest.fixture(scope="module")
def verdicts():
    return all_verdicts()


def test_the_page_is_what_the_data_say(verdicts):
    assert PAGE.read_text(encoding="utf-8") == page(verdicts)


def test_each_verdict_is_one_of_three_words(verdicts):
    every = [verdict for found in verdicts.values() for verdict in found]
    assert len(every) == 54
    assert {verdict.verdict for verdict in every} == {HOLDS, FAILS, OPEN}
    assert all(verdict.numbers and verdict.rule for verdict in every)


def test_what_decides():
    assert [decided(True, False), decided(False, True), decided(False, False)] == [HOLDS, FAILS, OPEN]
    assert above((1.0, 0.5), 0.4)
    assert not above((1.0, 0.5), 0.6)
    assert below((1.0, 0.5), 1.6)
    assert not below((1.0, 0.5), 1.4)


def test_a_run_looks_into_the_update(bench):
    point = {**lora(2), "rate": 3e-2, "seed": 0}
    run = bench.run("curves", point)
    assert {name: run[name] for name in point} == point
    assert run["step"] == [1, 3]
    assert run["size"][0] < run["size"][1]
    assert set(run["reduced"]["0.5"]) == {"validation", "prose", "source"}
    assert run["trainable"] == 2 * 8192
    assert not run["diverged"]


def test_a_run_that_ends_early_is_the_beginning_of_the_whole(bench):
    point = {"method": "full", "rate": 1e-3, "seed": 1}
    whole, part = bench.run("curves", point), bench.run("curves", point, marks=(1,))
    for name in ("prose", "size", "intruders"):
        assert part[name] == whole[name][:1]


def test_intruders_are_counted_as_the_library_does(bench):
    from lora_course.verdicts.runs import Observer

    model = bench.base()
    observer = Observer(bench, model, {"method": "full"}, into=True)
    rng = np.random.default_rng(0)
    deltas = {n: 0.1 * rng.standard_normal(W.shape).astype("float32") for n, W in observer.before.items()}
    found = sum(len(intruder_dimensions(W, deltas[n]).indices) for n, W in observer.before.items())
    assert observer.intruders(deltas) == found > 0


def test_the_texts_are_those_of_the_course(bench):
    from lora_course.adaptation import PROSE, SOURCE, Adaptation

    test = Adaptation(1, window=TINY["window"], evaluations=TINY["evaluations"])
    np.testing.assert_array_equal(bench.held_out["prose"], test.evaluation[PROSE])
    np.testing.assert_array_equal(bench.held_out["source"], test.evaluation[SOURCE])
    assert not np.array_equal(bench.held_out["validation"], bench.held_out["prose"])


@pytest.mark.parametrize("method", list(four_bits.SETTINGS))
def test_a_base_in_four_bits_is_smaller_and_qa_lora_merges_exactly(bench, method):
    run = bench.run("four_bits", {"method": method, "rate": 1e-3, "seed": 0})
    in_floats = method in (four_bits.FLOAT, "LoftQ")  # LoftQ's rounded weights are kept as floats
    assert run["base_bytes"] == (4 * 858880 if in_floats else {"QLoRA": 695552, "QA-LoRA": 1076224}[method])
    assert (run["merged"]["prose"] == run["prose"][-1]) is (method == "QA-LoRA")


def test_b_first_starts_at_the_base(bench):
    from lora_np import get_peft_model

    model = get_peft_model(bench.base(), lora_config(lora(4)))
    turn_start(model)
    for _, layer in model.base_model.layers():
        A, B = (X.numpy() for X in layer.matrices("default"))
        assert not A.any()
        assert 0.4 < abs(B).max() <= 0.5  # 1 / √4


def test_replay_takes_its_rows_from_the_old_text(bench):
    new, old = with_rows(bench.task.train, 5), bench.source
    batch = Mixed(new, old, 2).batch(0, 7)
    np.testing.assert_array_equal(batch["input_ids"][:3], with_rows(new, 3).batch(0, 7)["input_ids"])
    np.testing.assert_array_equal(batch["labels"][3:], with_rows(old, 2).batch(1000, 7)["labels"])


def test_a_run_that_diverges_says_so(bench, monkeypatch):
    def broken(run, data):
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr("lora_np.training.loop.TrainingRun.one_step", broken)
    run = bench.run("curves", {**lora(1), "rate": 1.0, "seed": 0})
    assert run["diverged"]
    assert run["step"] == run["prose"] == []
    assert "reduced" not in run


def test_the_search_of_a_relative_goes_where_the_best_rate_is():
    def seen(wanted, best):
        found = []
        while True:
            left = [one for one in wanted(found) if one not in [(r["rate"], r["seed"]) for r in found]]
            if not left:
                return sorted({run["rate"] for run in found})
            fields = {"diverged": False, "validation": [0]}
            found += [
                {**fields, "rate": rate, "seed": seed, "validation": [abs(np.log(rate / best))]} for rate, seed in left
            ]

    assert seen(family._wanted, 5e-3) == [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 6.4e-2]
    assert 0.256 in seen(family._wanted, 0.3)
    assert 1.25e-4 in seen(family._wanted, 1e-4)


def test_the_scaling_runs_wait_for_their_bases():
    assert {point["method"] for point in PLANS["scaling"]()} == {"base"}
    made_one = [{"method": "base", "width": 256}]
    assert {point["width"] for point in PLANS["scaling"](made_one) if point["method"] == "LoRA"} == {256}


def test_the_command_goes_on_where_it_stopped(bench, tmp_path, monkeypatch):
    plan = [{"method": "full", "rate": rate, "seed": 0} for rate in (1e-3, 2e-3, 4e-3)]
    monkeypatch.setitem(PLANS, "placement", lambda done=(): plan)
    monkeypatch.setitem(command._worker, "bench", bench)
    first = Command(["placement"], tmp_path, limit=-1.0)
    first.go(Here(), 1)
    assert not made(tmp_path / "placement.jsonl")
    (tmp_path / "placement.jsonl").write_text(json.dumps({**plan[1], "prose": [1.0]}) + '\n{"cut')
    second = Command(["placement"], tmp_path)
    second.go(Here(), 1)
    assert sorted(run["rate"] for run in second.runs["placement"]) == [1e-3, 2e-3, 4e-3]
    assert second.runs["placement"][0]["prose"] == [1.0]
    second.write({"date": "today"}, {"prose": 1.0})
    written = json.loads((tmp_path / "placement.json").read_text())
    assert [run["rate"] for run in written["runs"]] == [1e-3, 2e-3, 4e-3]
    assert written["about"] == {"command": "python -m lora_course.verdicts placement", "date": "today"}


def test_in_one_process_each_run_is_on_file_before_the_next_begins(tmp_path, monkeypatch):
    class Looking:
        def run(self, name, point):
            return {**point, "prose": [len(made(tmp_path / f"{name}.jsonl"))]}

    plan = [{"method": "full", "rate": rate, "seed": 0} for rate in (1, 2, 3)]
    monkeypatch.setitem(PLANS, "placement", lambda done=(): plan)
    monkeypatch.setitem(command._worker, "bench", Looking())
    made_here = Command(["placement"], tmp_path)
    made_here.go(Here(), 1)
    assert [run["prose"] for run in made_here.runs["placement"]] == [[0], [1], [2]]


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    class Broken:
        def run(self, name, point):
            if point["rate"] == 1:
                raise ValueError("no such rate")
            return {**point, "prose": [1.0]}

    plan = [{"method": "full", "rate": rate, "seed": 0} for rate in (1, 2)]
    monkeypatch.setitem(PLANS, "placement", lambda done=(): plan)
    monkeypatch.setitem(command._worker, "bench", Broken())
    made_here = Command(["placement"], tmp_path)
    made_here.go(Here(), 1)
    assert [run["rate"] for run in made_here.runs["placement"]] == [2]
    assert "no such rate" in capsys.readouterr().err
    assert len(made_here.errors) == 1


def test_small_runs_have_files_of_their_own(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "Bench", lambda **options: bench)
    monkeypatch.setattr(sys, "argv", ["verdicts", "protected", "--small", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"protected.small.json", "protected.small.jsonl"}
    data = json.loads((tmp_path / "protected.small.json").read_text())
    assert data["about"]["small"]
    assert len(data["runs"]) == 5
    assert "5 runs" in capsys.readouterr().out


def test_data_sets_with_models_of_their_own_have_no_losses_of_the_base(tmp_path):
    command = Command(["placement", "reward"], tmp_path)
    command.write({"date": "today"}, {"prose": 1.0})
    bases = {name: json.loads((tmp_path / f"{name}.json").read_text())["base"] for name in ("placement", "reward")}
    assert bases == {"placement": {"prose": 1.0}, "reward": {}}


@pytest.mark.parametrize("name", OWN)
def test_a_run_of_such_a_data_set_is_its_point_and_more(bench, monkeypatch, name):
    monkeypatch.setitem(OWN, name, lambda point, small, device, marks: {**point, "seen": (small, device, marks)})
    assert bench.run(name, {"seed": 3}, marks=(1,)) == {"seed": 3, "seen": (True, "cpu", (1,))}
    assert points.small_plan(name)
    assert {key_of(point) for point in points.small_plan(name)} < {key_of(point) for point in PLANS[name]()}


def test_all_data_sets_have_settings():
    assert set(PLANS) - set(OWN) | {"bases"} == set(SETTINGS)
