"""Larger adapters and facts: what is learnt and counted of a fact, which runs there are, and the rules that decide."""

import numpy as np
import pytest

from lora_course.verdicts import capacity, larger
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN
from lora_np import GPT2Config, GPT2LMHeadModel


def test_the_name_of_a_fact_is_not_learnt():
    ids = capacity.strings(3, 0)
    batch = capacity.Same(ids, capacity.NAMED).batch(0, 0)
    assert (batch["labels"][:, :16] == -100).all()
    np.testing.assert_array_equal(batch["labels"][:, 16:], ids[:, 16:])


def test_a_model_that_knows_nothing_remembers_nothing_of_facts():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=32, n_embd=8, n_layer=1, n_head=1))
    model.transformer.wte.weight.data[...] = 0.0  # every byte is as likely as the others: 8 bits, not 6
    assert capacity.remembered(model, capacity.strings(4, 0), 16) == pytest.approx(-2 * 16 * 4, rel=1e-5)


def test_a_run_of_facts(monkeypatch):
    monkeypatch.setattr(capacity, "_base", lambda width, small: _tiny(width))
    point = {**larger.small_plan()[0], "data": "facts"}
    run = capacity.run(point, small=True, marks=(1, 40))
    assert run["entropy"] == round(1.2 * run["trainable"] / 96) * 96
    assert run["remembered"][1] > run["remembered"][0]


def _tiny(width):
    return GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=32, n_embd=width, n_layer=1, n_head=1))


def short(point, best):
    """A run of a point whose rate is as good as it is near the best one."""
    left = abs(np.log(point["rate"] / best))
    return {**point, "trainable": 1000, "remembered": [1000 - 10 * left]}


def test_the_rate_is_the_best_of_four_short_runs():
    first = larger.plan()
    assert {point["steps"] for point in first} == {larger.SHORT}
    done = [short(point, 4e-3) for point in first]
    rest = [point for point in larger.plan(done) if point["steps"] == capacity.STEPS]
    assert {point["rate"] for point in rest} == {4e-3}
    assert len(rest) == 3 * (sum(steps == capacity.STEPS for *_, steps in larger.SETTINGS) + 2 * len(larger.PLACED))
    assert larger.plan(done[:-1]) != larger.plan(done)


def data(bits=0.5, more=2.0, power=1.0, facts=1.0, attention=1.0, longer=1.0, spread=0.001):
    """Runs in which each parameter remembers so many bits, of 1.2 or 4.8 (of facts, and so on: times that)."""
    made = []
    for point in larger.plan([short(point, 4e-3) for point in larger.plan()]):
        trainable = 32 * point["width"] * point["rank"]
        each = more if point["load"] == larger.MORE else bits * point["rank"] ** (power - 1)
        each *= (facts if point["data"] == "facts" else 1) * (1 + spread * point["seed"])
        each *= longer if point["steps"] == larger.LONG else 1
        each *= attention if point["targets"] == "attention" else 1
        made.append({**point, "trainable": trainable, "remembered": [each * trainable / 2, each * trainable]})
    return {"runs": made}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [HOLDS, HOLDS, HOLDS, HOLDS, HOLDS]),
        ({"more": 1.0}, [FAILS, HOLDS, HOLDS, HOLDS, HOLDS]),
        ({"more": 1.0, "longer": 1.2}, [OPEN, HOLDS, HOLDS, HOLDS, HOLDS]),
        ({"more": 1.0, "longer": 1.05}, [FAILS, HOLDS, HOLDS, HOLDS, HOLDS]),
        ({"more": 1.6, "spread": 0.1}, [OPEN, HOLDS, HOLDS, HOLDS, HOLDS]),
        ({"power": 1.3}, [HOLDS, FAILS, FAILS, HOLDS, HOLDS]),
        ({"facts": 0.5}, [HOLDS, HOLDS, HOLDS, FAILS, HOLDS]),
        ({"facts": 1.25}, [HOLDS, HOLDS, HOLDS, OPEN, HOLDS]),
        ({"attention": 0.5}, [HOLDS, HOLDS, HOLDS, HOLDS, FAILS]),
    ],
)
def test_the_rule_decides(options, wanted):
    assert [verdict.verdict for verdict in larger.verdicts(data(**options))] == wanted
