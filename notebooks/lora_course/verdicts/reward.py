"""Learning from reward beside learning from examples: full training, LoRA of rank 1, and 13 numbers.

"LoRA without regret" says: a reward teaches about one bit an answer, so the smallest adapter can hold it. Morris et al.
(2026, "Learning to Reason in 13 Parameters") say that 13 numbers are enough by reward and too few by examples. The task
is numbers in words (words.py), the method GRPO (grpo.py). `python -m lora_course.verdicts reward` makes the runs.
"""

import copy
import functools
import time

import numpy as np

from lora_np import AdamW, LoraConfig, get_peft_model, no_grad
from lora_np.autograd import manual_seed
from lora_np.lora.family.tinylora import TinyLoraConfig

from . import words
from .grpo import grpo_step, log_probabilities
from .statistics import by, chosen, differences, final, interval
from .verdict import WITHOUT_REGRET, Verdict, above, below, decided

SEEDS = (0, 1, 2, 3, 4)
TEACHERS = ("reward", "examples")
RATES = {  # what each teacher is tried at
    "full": {"reward": (1e-4, 3e-4, 1e-3), "examples": (3e-4, 1e-3, 3e-3, 1e-2)},
    "LoRA r=1": {"reward": (3e-4, 1e-3, 3e-3, 1e-2), "examples": (3e-3, 1e-2, 3e-2)},
    "13 numbers": {"reward": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), "examples": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)},
}
CONFIGS = {
    "full": lambda: None,
    "LoRA r=1": lambda: LoraConfig(r=1, lora_alpha=8, target_modules="all-linear", fan_in_fan_out=True),
    "13 numbers": lambda: TinyLoraConfig(r=2, u=13, weight_tying=1.0, target_modules="all-linear", fan_in_fan_out=True),
}
ASKED, GROUP = 8, 8  # numbers in a step, and answers to each; of examples as many as there are answers
MARKS = (0, 2, 5, 10, 20, 30, 40, 60, 80, 100)
SMALL_MARKS = (0, 1, 2)
LEVEL = 0.7  # of right answers: how many steps does it take to get there?
FIRST = 10  # steps over which bits are counted
CLOSE, MOST = 0.05, 0.9


def plan(done=()):
    """Three ways to train, two teachers, rates on both sides of the best, five seeds."""
    return [
        {"method": method, "teacher": teacher, "rate": rate, "seed": seed}
        for seed in SEEDS
        for method, teachers in RATES.items()
        for teacher, rates in teachers.items()
        for rate in rates
    ]


def small_plan(done=()):
    """Each way and teacher once."""
    return [
        point for point in plan() if point["seed"] == 0 and point["rate"] == RATES[point["method"]][point["teacher"]][1]
    ]


@functools.lru_cache(maxsize=1)
def _base(seed, small):
    return words.base(seed, small)


def run(point, small=False, device="cpu", marks=None):
    """A point with what came of it. At each marked step there are

    success      of held-out numbers, how many answers are right: the mean probability of the right one, exactly
    bits         the mean of -log2 of that probability; validation: the same of the numbers that choose the rate
    heard        the bits that the teacher has given so far: see `_by_reward` and `_by_examples`
    """
    began, seed = time.perf_counter(), point["seed"]
    marks = marks or (SMALL_MARKS if small else MARKS)
    numbers, model = words.split(seed), copy.deepcopy(_base(seed, small)).to(device)
    manual_seed(seed)
    config = CONFIGS[point["method"]]()
    model = model if config is None else get_peft_model(model, config)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=point["rate"], weight_decay=0.0)
    step = {"reward": _by_reward, "examples": _by_examples}[point["teacher"]]
    columns, heard = {"step": [], "validation": [], "success": [], "bits": [], "heard": []}, 0.0
    for i in range(max(marks) + 1):
        if i in marks:
            seen = {"step": i, **_look(model, numbers), "heard": round(heard, 1)}
            for name, value in seen.items():
                columns[name].append(value)
        if i < max(marks):
            heard += step(model, optimizer, numbers["train"], seed, i)
    trainable = sum(p.size for p in model.parameters() if p.requires_grad)
    seconds = round(time.perf_counter() - began, 2)
    return {**point, **columns, "trainable": trainable, "seconds": seconds, "diverged": not np.isfinite(heard)}


def _look(model, numbers):
    model.eval()
    test, validation = (log2_right(model, numbers[part]) for part in ("test", "validation"))
    found = {"validation": -validation.mean(), "success": np.exp2(test).mean(), "bits": -test.mean()}
    return {name: round(float(value), 4) for name, value in found.items()}


def log2_right(model, numbers):
    """log2 of the probability of the right answer, for each number."""
    answers = words.right(numbers)
    with no_grad():
        ids = np.concatenate([words.prompts(numbers), answers], axis=1)
        found = log_probabilities(model, ids, words.PROMPT).numpy()
    return (found * words.written(answers)).sum(axis=1) / np.log(2)


def is_right(asked, answers):
    """1.0 for each right answer, 0.0 for each other."""
    digits = asked[:, :3] - words.ID["0"]
    return (answers == words.right(digits @ [100, 10, 1])).all(axis=1).astype(float)


def _by_reward(model, optimizer, numbers, seed, step):
    """A step of GRPO; the bits of its rewards: the entropy of right and wrong among the answers of each group."""
    asked = words.prompts(np.random.default_rng((seed, step)).choice(numbers, ASKED, replace=False))
    rewards = grpo_step(model, optimizer, asked, is_right, GROUP, words.ANSWER, words.END, seed=1000 * seed + step)
    p = np.clip(rewards.mean(axis=1), 1e-12, 1 - 1e-12)
    return float(GROUP * -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())


def _by_examples(model, optimizer, numbers, seed, step):
    """A step on right answers; their bits: -log2 of the probability that the model gave them."""
    batch = words.Read(numbers, ASKED * GROUP, {"right": 1.0}).batch(seed, step)
    model.train()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.item() * (batch["labels"] >= 0).sum() / np.log(2))


def best(data):
    """{(method, teacher): the runs at its best rate}."""
    return {key: chosen(runs) for key, runs in by(data["runs"], "method", "teacher").items()}


def gains(runs):
    """{seed: how much the part of right answers rose}."""
    return {run["seed"]: run["success"][-1] - run["success"][0] for run in runs}


def steps_to(run, level=LEVEL):
    """Steps until that part of the answers is right, on straight lines between marks; the last step if it never is."""
    found = np.flatnonzero(np.array(run["success"]) >= level)
    if not len(found) or not found[0]:
        return float(run["step"][-1] if not len(found) else 0)
    i = found[0]
    return float(np.interp(level, run["success"][i - 1 : i + 1], run["step"][i - 1 : i + 1]))


def heard(run, first=FIRST):
    """Bits that an answer, or an example, gave in the first steps."""
    return run["heard"][run["step"].index(first)] / (first * ASKED * GROUP)


def verdicts(data):
    """Four claims."""
    found = best(data)
    ends = {key: interval([final(run, "success") for run in runs]) for key, runs in found.items()}
    full, one, tiny = (found[method, "reward"] for method in CONFIGS)
    lag = interval(differences(full, one, "success"))
    whole, part = gains(full), gains(tiny)
    ratio = interval([part[seed] / whole[seed] for seed in sorted(whole)])
    ahead = interval(differences(tiny, found["13 numbers", "examples"], "success"))
    bits = {teacher: interval([heard(run) for run in found["full", teacher]]) for teacher in TEACHERS}
    steps = {teacher: interval([steps_to(run) for run in found["full", teacher]]) for teacher in TEACHERS}
    apart = interval([heard(a) - heard(b) for a, b in _pairs(found)])
    longer = interval([steps_to(a) - steps_to(b) for a, b in _pairs(found)])
    seeds = len(full)
    tinylora = "Morris et al., 2026, Learning to Reason in 13 Parameters"
    return [
        Verdict(
            "by reward, rank 1 learns as well as full training",
            WITHOUT_REGRET,
            {f"right after 100 steps, {m}": ends[m, "reward"] for m in ("full", "LoRA r=1")}
            | {"full minus rank 1": lag}
            | {f"by examples, {m}": ends[m, "examples"] for m in ("full", "LoRA r=1")},
            seeds,
            f"of all answers, less than {CLOSE} more are right after full training, the whole interval",
            decided(below(lag, CLOSE), above(lag, CLOSE)),
            "By examples rank 1 ends behind, too, and in the last 20 steps it gets hardly further with either: 2,048 "
            "numbers are too few here, whoever teaches.",
            ("reward",),
        ),
        Verdict(
            "by reward, 13 numbers get most of what full training gets",
            tinylora,
            {"right after 100 steps, 13 numbers": ends["13 numbers", "reward"], "part of full training's gain": ratio},
            seeds,
            f"at least {MOST} of full training's gain in right answers, the whole interval",
            decided(above(ratio, MOST), below(ratio, MOST)),
            "About a quarter of it, in a model of 103,296 parameters; the claim was made of one of 8 billion.",
            ("reward",),
        ),
        Verdict(
            "by examples, 13 numbers get less than by reward",
            tinylora,
            {f"right after 100 steps, by {teacher}": ends["13 numbers", teacher] for teacher in TEACHERS}
            | {"by reward minus by examples": ahead},
            seeds,
            "the difference lies above 0",
            decided(above(ahead), below(ahead)),
            "No difference: what 13 numbers can do here, either teacher brings out.",
            ("reward",),
        ),
        Verdict(
            "an answer with a reward teaches less than an example",
            WITHOUT_REGRET,
            {f"bits each, by {teacher}": pair for teacher, pair in bits.items()}
            | {f"steps to {LEVEL} right, by {teacher}": pair for teacher, pair in steps.items()},
            seeds,
            f"full training hears fewer bits from each in {FIRST} steps, and takes more steps of as many of them until "
            f"{LEVEL} of the answers are right; both intervals of the differences leave out 0",
            decided(below(apart) and above(longer), above(apart) or below(longer)),
            "By little in bits, as the base only has to choose among its manners. It takes three times the steps.",
            ("reward",),
        ),
    ]


def _pairs(found):
    """(run by reward, run by examples) of each seed, in full training."""
    others = {run["seed"]: run for run in found["full", "examples"]}
    return [(run, others[run["seed"]]) for run in found["full", "reward"]]
