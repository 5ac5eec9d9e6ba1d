"""The task of numbers in words, and its runs."""

import numpy as np
import pytest

from lora_course.verdicts import reward, words
from lora_course.verdicts.reward import is_right, log2_right, plan, small_plan, steps_to
from lora_course.verdicts.verdict import FAILS, HOLDS, OPEN


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "zero"),
        (7, "seven"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty two"),
        (100, "one hundred"),
        (407, "four hundred seven"),
        (999, "nine hundred ninety nine"),
    ],
)
def test_numbers_in_words(number, text):
    assert " ".join(words.spelled(number)) == text


def test_each_number_has_words_of_its_own():
    assert len({tuple(words.spelled(n)) for n in range(1000)}) == 1000
    assert max(len(words.spelled(n)) for n in range(1000)) < words.ANSWER


def test_a_reward_is_for_the_right_words_alone():
    numbers = [407, 407, 0]
    answers = words.right([407, 470, 0])
    assert is_right(words.prompts(numbers), answers).tolist() == [1.0, 0.0, 1.0]


def test_answers_count_up_to_their_end():
    ids = np.concatenate([words.prompts([40]), words.right([40])], axis=1)
    forty = words.ID["forty"]
    assert words.labels(ids).tolist() == [[-100] * 4 + [forty, words.END, -100, -100, -100]]


def test_the_base_reads_in_three_manners():
    batch = words.Read([407], 2000).batch(0, 0)
    answers = batch["input_ids"][:, words.PROMPT :]
    right = (answers == words.right([407])).all(1).mean()
    digits = (answers == words.answers([["four", "zero", "seven"]])).all(1).mean()
    assert abs(right - 0.3 - 0.4 / len(words.WORDS)) < 0.04  # a slip may be the word itself
    assert abs(digits - 0.3) < 0.04


def test_the_parts_are_apart():
    found = words.split(3)
    assert {name: len(numbers) for name, numbers in found.items()} == words.PARTS
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(1000))


def test_a_run_by_each_teacher():
    runs = [reward.run(point, small=True) for point in small_plan()]
    sizes = {run["method"]: run["trainable"] for run in runs}
    assert sizes == {"full": 103296, "LoRA r=1": 2048, "13 numbers": 13}
    for run in runs:
        assert run["step"] == list(reward.SMALL_MARKS)
        assert run["bits"][0] == runs[0]["bits"][0]  # all begin at the base
        assert run["success"][-1] != run["success"][0]
        most = 1 if run["teacher"] == "reward" else np.inf  # bits of each answer
        assert 0 <= run["heard"][-1] <= most * run["step"][-1] * reward.ASKED * reward.GROUP
    assert {(run["method"], run["teacher"]) for run in runs} == {(m, t) for m in reward.RATES for t in reward.TEACHERS}


def test_the_part_of_right_answers_is_a_probability():
    model = words.base(0, small=True)
    numbers = words.split(0)["test"][:5]
    rows = np.concatenate([words.prompts(numbers), words.right(numbers)], axis=1)
    counts = (words.labels(rows) >= 0).sum()
    loss = model(input_ids=rows, labels=words.labels(rows)).loss.item()
    assert np.isclose(-log2_right(model, numbers).sum() * np.log(2), loss * counts, rtol=1e-4)


def test_steps_to_a_level():
    run = {"step": [0, 10, 20], "success": [0.3, 0.6, 0.8]}
    assert steps_to(run, 0.7) == pytest.approx(15)
    assert steps_to(run, 0.9) == 20
    assert steps_to(run, 0.2) == 0


def test_every_point_has_a_seed_and_a_rate_of_its_own():
    points = plan()
    assert len(points) == 5 * sum(len(rates) for teachers in reward.RATES.values() for rates in teachers.values())
    assert len({tuple(point.values()) for point in points}) == len(points)


def data(ends, steps=(20, 10), bits=(0.5, 0.9)):
    """Runs of five seeds: the parts of right answers at the end, by method and teacher; and, of full training, the
    steps to the level and the bits of each answer, by reward and by examples."""
    made = []
    for (method, teacher), end in ends.items():
        i = reward.TEACHERS.index(teacher)
        for seed in reward.SEEDS:
            shift = 0.002 * (seed - 2)
            marks = [0, reward.FIRST, steps[i], 100]
            success = [0.3, 0.4, reward.LEVEL + shift, end + shift] if end > reward.LEVEL else [0.3, 0.35, 0.4, end]
            heard = [0.0, bits[i] * (1 + shift) * reward.FIRST * reward.ASKED * reward.GROUP, 0.0, 0.0]
            point = {"method": method, "teacher": teacher, "rate": 1e-3, "seed": seed, "diverged": False}
            made.append({**point, "step": marks, "success": success, "heard": heard, "validation": [1.0 - end]})
    return {"runs": made}


def of(full=(0.9, 0.9), one=(0.9, 0.9), tiny=(0.9, 0.5)):
    """{(method, teacher): end}, each by reward and by examples."""
    pairs = zip(reward.RATES, (full, one, tiny), strict=True)
    return {(m, t): end for m, found in pairs for t, end in zip(reward.TEACHERS, found, strict=True)}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"ends": of(), "steps": (30, 15)}, [HOLDS, HOLDS, HOLDS, HOLDS]),
        ({"ends": of(one=(0.8, 0.9)), "steps": (30, 15)}, [FAILS, HOLDS, HOLDS, HOLDS]),
        ({"ends": of(tiny=(0.5, 0.4)), "steps": (30, 15)}, [HOLDS, FAILS, HOLDS, HOLDS]),
        ({"ends": of(tiny=(0.9, 0.9)), "steps": (30, 15)}, [HOLDS, HOLDS, OPEN, HOLDS]),
        ({"ends": of(tiny=(0.9, 0.95)), "steps": (30, 15)}, [HOLDS, HOLDS, FAILS, HOLDS]),
        ({"ends": of(), "steps": (15, 30)}, [HOLDS, HOLDS, HOLDS, FAILS]),
        ({"ends": of(), "steps": (30, 15), "bits": (0.9, 0.5)}, [HOLDS, HOLDS, HOLDS, FAILS]),
        ({"ends": of(), "steps": (30, 15), "bits": (0.9, 0.9)}, [HOLDS, HOLDS, HOLDS, OPEN]),
    ],
)
def test_the_rule_decides(options, wanted):
    assert [verdict.verdict for verdict in reward.verdicts(data(**options))] == wanted


def test_the_best_rate_is_that_with_the_fewest_bits_left():
    runs = data(of())["runs"]
    other = [{**run, "rate": 3e-3, "validation": [run["validation"][0] - 0.01]} for run in runs]
    assert {run["rate"] for found in reward.best({"runs": runs + other}).values() for run in found} == {3e-3}
