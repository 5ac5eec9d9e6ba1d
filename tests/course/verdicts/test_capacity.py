"""Bits remembered: what they are counted from, and the rule that decides."""

import numpy as np
import pytest

from lora_course.verdicts import capacity
from lora_course.verdicts.capacity import CHARACTERS, RATES, entropy, plan, remembered, small_plan, strings, verdicts
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN
from lora_np import GPT2Config, GPT2LMHeadModel


def test_strings_are_random_and_of_known_entropy():
    found = strings(500, 3)
    assert found.shape == (500, 32)
    assert set(found.ravel()) == set(CHARACTERS)
    assert len(set(CHARACTERS)) == 64
    assert entropy(500) == 500 * 31 * 6
    assert not np.array_equal(found, strings(500, 4))


def test_a_model_that_knows_nothing_remembers_nothing():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=32, n_embd=8, n_layer=1, n_head=1))
    model.transformer.wte.weight.data[...] = 0.0  # every byte is as likely as the others: 8 bits, not 6
    ids = strings(4, 0)
    assert remembered(model, ids) == pytest.approx(-2 * 31 * 4, rel=1e-5)


def test_a_run():
    runs = [capacity.run(point, small=True) for point in small_plan()]
    assert [run["trainable"] for run in runs] == [384, 640, 1024]
    for run in runs:
        assert run["step"] == [1, 2, 3, 4, 5, 6]
        assert run["entropy"] == max(2, round(1.2 * run["trainable"] / 186)) * 186
        assert run["remembered"][-1] > run["remembered"][0]
    again = capacity.run(small_plan()[2], small=True, marks=(3,))
    assert again["remembered"] == runs[2]["remembered"][2:3]


def data(bits, more=1.05, power=1.0, attention=1.0, strings=1.0):
    """Runs in which each parameter remembers so many bits; `more` after twice the steps, `strings` of the most."""
    made = []
    for point in plan():
        trainable = {"attention": 384, "MLP": 640, "all linear": 1024}[point["targets"]] * point["rank"]
        value = bits * 1024 * (trainable / 1024) ** power * (1 + 0.001 * point["seed"])
        value *= attention if point["targets"] == "attention" else 1
        value *= more if point["steps"] == capacity.LONG else 1
        value *= strings if point["load"] == capacity.OTHER_LOADS[-1] else 1
        made.append({**point, "trainable": trainable, "remembered": [value / 2, value]})
    return {"runs": made}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"bits": 2.0}, [HOLDS, HOLDS, HOLDS]),
        ({"bits": 0.5}, [FAILS, HOLDS, HOLDS]),
        ({"bits": 0.5, "more": 1.2}, [OPEN, HOLDS, HOLDS]),
        ({"bits": 0.5, "strings": 1.2}, [OPEN, HOLDS, HOLDS]),
        ({"bits": 1.57}, [OPEN, HOLDS, HOLDS]),
        ({"bits": 4.0, "more": 1.2}, [FAILS, HOLDS, HOLDS]),
        ({"bits": 0.5, "power": 0.8}, [FAILS, FAILS, HOLDS]),
        ({"bits": 0.5, "attention": 0.7}, [FAILS, FAILS, FAILS]),
    ],
)
def test_the_rule_decides(options, wanted):
    assert [verdict.verdict for verdict in verdicts(data(**options))] == wanted


def test_the_plan_has_each_width_rank_and_place_three_times():
    usual = capacity.usual({"runs": plan()})
    assert len(usual) == len(RATES) * 3 * 3
    assert len(plan()) == len(usual) + len(RATES) + len(capacity.WIDTHS) * len(capacity.OTHER_LOADS)
