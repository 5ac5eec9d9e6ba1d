"""The second scale: its search for rates, a run, and the rules that decide."""

import numpy as np
import pytest

from lora_course.verdicts import second
from lora_course.verdicts.second import CORE, KINDS, RELATIVES, SEEDS, kind_of, plan, small_plan, verdicts
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN


def searched(loss):
    """All runs of the plan, one wave after another. loss: of a kind, a rate and a seed."""
    done = []
    while left := [point for point in plan(done) if not _among(point, done)]:
        done += [_run(point, loss(kind_of(point), point["rate"], point["seed"])) for point in left]
    return {"runs": done}


def _among(point, runs):
    return any(point.items() <= run.items() and kind_of(point) == kind_of(run) for run in runs)


def _run(point, end):
    """A run that comes to `end` on a straight line, from 3; its own words are 1 + 0.2 times what it learnt."""
    prose = [3.0, (3.0 + end) / 2, end]
    own = [1.0 + OWN[point["method"] == "full"] * (3.0 - x) for x in prose]
    found = {"step": [0, 24, 48], "validation": prose, "prose": prose, "own": own}
    return {**point, **found, "trainable": 1, "diverged": False}


OWN = {True: 0.2, False: 0.1}  # full training changes the base's words more


def losses(ends=None, rates=None, slope=0.0):
    """Each kind's loss: least at its rate, where it is its end. slope: what 32 rows cost LoRA more than 4."""
    ends, rates = {**dict.fromkeys(KINDS, 2.0), **(ends or {})}, rates or {}

    def loss(kind, rate, seed):
        usual = 1e-4 if kind.startswith("full") else 1.6e-2 if kind == "HiRA" else 1e-3
        away = np.log(rate / rates.get(kind, usual))
        return ends[kind] + 0.05 * away**2 + 0.001 * seed + slope * (kind == "rank 15, 32 rows")

    return loss


GOOD = {"attention, rank 40": 2.2, "DoRA": 1.98}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"slope": 0.1}, {}),
        ({"slope": 0.1, "rates": dict.fromkeys(("rank 4", "rank 15", "rank 64"), 4e-3)}, {0: OPEN}),
        ({"slope": 0.1, "rates": {"rank 64": 2.5e-4}}, {0: OPEN, 1: FAILS}),
        ({"slope": 0.1, "ends": {**GOOD, "attention, rank 40": 1.9}}, {2: FAILS}),
        ({"slope": 0.1, "ends": {**GOOD, "MLP, rank 24": 2.1, "attention, rank 40": 2.3}}, {2: FAILS}),
        ({"slope": -0.1}, {3: FAILS}),
        ({"slope": 0.1, "ends": {**GOOD, "rank 4": 2.2}}, {4: FAILS}),
        ({"slope": 0.1, "ends": {**GOOD, "HiRA": 2.1}}, {6: FAILS}),
        ({"slope": 0.1, "ends": {**GOOD, **dict.fromkeys(RELATIVES, 2.01)}}, {7: FAILS}),
    ],
)
def test_the_rule_decides(options, changed):
    found = verdicts(searched(losses(**{"ends": GOOD, **options})))
    assert [verdict.verdict for verdict in found] == [changed.get(i, HOLDS) for i in range(8)]


def test_who_forgets_less_is_decided_at_equal_learning(monkeypatch):
    monkeypatch.setitem(OWN, False, 0.3)
    assert verdicts(searched(losses(ends=GOOD)))[5].verdict == FAILS


@pytest.mark.parametrize("best", [1e-4, 1.1e-3, 9e-3])
def test_a_search_ends_where_the_best_rate_has_a_worse_one_on_either_side(best):
    data = searched(losses(rates={"rank 4": best}))
    for seed in SEEDS:
        runs = sorted(
            (r for r in data["runs"] if kind_of(r) == "rank 4" and r["seed"] == seed), key=lambda r: r["rate"]
        )
        ends = [run["validation"][-1] for run in runs]
        assert 0 < int(np.argmin(ends)) < len(ends) - 1
        assert abs(np.log2(runs[int(np.argmin(ends))]["rate"] / best)) <= 0.5
    assert second.settled(data)["runs"] == data["runs"]


def test_claims_are_decided_as_far_as_searches_are_at_their_end():
    data = searched(losses(ends=GOOD))
    every = [verdict.claim for verdict in verdicts(data)]
    assert len(every) == 8
    for missing, left in (("rank 15, 32 rows", every[:3] + every[4:]), ("HiRA", every[:6]), ("rank 4", every[6:])):
        last = max(i for i, run in enumerate(data["runs"]) if kind_of(run) == missing)
        some = {"runs": data["runs"][:last] + data["runs"][last + 1 :]}
        assert missing not in second.of_kinds(second.settled(some))
        assert [verdict.claim for verdict in verdicts(some)] == left


def test_each_kind_has_runs_of_its_own():
    assert [kind_of(point) for point in small_plan()] == list(KINDS)
    assert [second.lateness(point) for point in small_plan()] == [0] * len(CORE) + [1] * 4 + [2] * 3


def test_a_run():
    points = {kind_of(point): point for point in small_plan()}
    runs = {kind: second.run(points[kind], small=True) for kind in ("full", "rank 4", "HiRA")}
    for run in runs.values():
        assert run["step"] == [0, 1, 2, 3, 4]
        for name in ("validation", "prose", "source", "own"):
            assert len(run[name]) == 5
            assert run[name][0] == runs["full"][name][0]  # all begin at the base
        assert run["prose"][-1] < run["prose"][0]
    assert runs["rank 4"]["trainable"] == 4 * 8192
    again = second.run(points["rank 4"], small=True, marks=(2,))
    assert again["prose"] == runs["rank 4"]["prose"][:3:2]


def test_what_follows_the_end_of_an_answer_does_not_count():
    ids, labels = second._own_words(True)
    asked = (labels == -100).sum(axis=1)
    assert (asked == asked[0]).all()
    np.testing.assert_array_equal(labels[:, asked[0] :], ids[:, asked[0] :])
