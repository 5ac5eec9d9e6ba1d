"""4 bits at the second scale: which runs there are, and one run of each way."""

import numpy as np
import pytest

from lora_course.verdicts import second_bits
from lora_course.verdicts.four_bits import FLOAT, SETTINGS
from lora_course.verdicts.second_bits import RATES, SEEDS, plan, small_plan, verdicts
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN


def test_other_seeds_have_the_rate_that_was_best_for_the_first():
    first = plan()
    assert len(first) == len(SETTINGS) * len(RATES)
    assert {point["seed"] for point in first} == {SEEDS[0]}
    known = {"step": [0, 24], "diverged": False}
    done = [{**point, **known, "validation": [3.0, 2.0 + abs(point["rate"] - RATES[2])]} for point in first]
    assert plan(done[:2]) == first
    rest = plan(done)[len(first) :]
    assert [(point["method"], point["seed"], point["rate"]) for point in rest] == [
        (method, seed, RATES[2]) for method in SETTINGS for seed in SEEDS[1:]
    ]


@pytest.mark.parametrize(
    ("behind", "merging", "words"),
    [
        ({"QLoRA": 0.01, "LoftQ": -0.02, "QA-LoRA": 0.03}, {"QLoRA": 0.2, "QA-LoRA": 0.0}, [HOLDS] * 4),
        ({"QLoRA": 0.2, "LoftQ": 0.3, "QA-LoRA": 0.1}, {"QLoRA": 0.1, "QA-LoRA": 0.4}, [FAILS] * 4),
        ({"QLoRA": 0.05, "LoftQ": 0.05, "QA-LoRA": 0.05}, {"QLoRA": 0.0, "QA-LoRA": 0.0}, [OPEN] * 4),
    ],
)
def test_the_rules_are_those_of_the_small_model(behind, merging, words):
    rng, runs = np.random.default_rng(0), []
    for method in SETTINGS:
        for seed in SEEDS:
            end = 2.0 + behind.get(method, 0.0) + 1e-3 * seed + (1e-3 * rng.standard_normal() if method != FLOAT else 0)
            run = {
                "method": method,
                "rate": RATES[0],
                "seed": seed,
                "step": [0, 24],
                "diverged": False,
                "validation": [3.0, end],
            }
            runs.append({**run, "prose": [3.0, end], "merged": {"prose": end + merging.get(method, 0.5)}})
    found = verdicts({"runs": runs})
    assert [verdict.verdict for verdict in found] == words
    assert all(verdict.claim.startswith("SmolLM2: ") and verdict.data == ("second_bits",) for verdict in found)


def test_a_run_of_each_way():
    found = {point["method"]: second_bits.run(point, small=True) for point in small_plan()}
    starts = {method: run["prose"][0] for method, run in found.items()}
    assert starts[FLOAT] < starts["QLoRA"]
    assert len(set(starts.values())) == len(starts)  # each rounds in its way
    for method, run in found.items():
        assert run["step"] == [0, 4]
        assert run["prose"][1] < run["prose"][0]
        lost = run["merged"]["prose"] - run["prose"][1]
        assert abs(lost) < 1e-5 if method == "QA-LoRA" else abs(lost) > 1e-4
    assert found[FLOAT]["base_bytes"] > 3 * found["QA-LoRA"]["base_bytes"] > 3 * found["QLoRA"]["base_bytes"]
