"""4 bits at the second scale: the claims of four_bits.py with SmolLM2-135M, in runs short enough for two CPU cores.

SmolLM2 is what `lora-np fetch smollm2` brings: weights that were rounded to 4 bits once, by another rule, and are
floats here. A run reads 24 batches of 8 windows of 128 tokens of prose. Losses are in nats per token.
`python -m lora_course.verdicts second_bits` makes the runs, in 40 minutes.
"""

import copy
import functools
import time

from lora_np import get_peft_model
from lora_np.autograd import manual_seed
from lora_np.cli.task import evenly_spaced
from lora_np.models import AutoModelForCausalLM, AutoTokenizer
from lora_np.training import TextData, TrainingArguments, evaluate, prose_documents
from lora_np.training.data import split_documents

from . import four_bits
from .along import look_along
from .four_bits import FLOAT, SETTINGS, after, rounded
from .statistics import by, chosen, final, interval

SEEDS, RATES = (0, 1, 2), (1e-3, 2e-3, 4e-3)
STEPS, ROWS, LENGTH, SHOWN = 24, 8, 128, 32  # of a run; windows of a batch, their length; held out
SEEN = (
    "Rounding costs a fifth of the gain.",
    "With three seeds no difference is seen.",
    "To the last digit. QLoRA, rounded again, loses nine tenths of what it had learnt.",
    "As trained it is not behind, either, with about half the trained numbers: its groups are of 16 weights, and the "
    "base is a third larger for that.",
)


def plan(done=()):
    """Each way at each rate with the first seed, and with the others at the rate that was best for it then."""
    found = [{"method": method, "rate": rate, "seed": SEEDS[0]} for method in SETTINGS for rate in RATES]
    for method, runs in by([run for run in done if run["seed"] == SEEDS[0]], "method").items():
        if len(runs) == len(RATES):
            best = chosen(runs)[0]["rate"]
            found += [{"method": method, "rate": best, "seed": seed} for seed in SEEDS[1:]]
    return found


def small_plan(done=()):
    """Each way once."""
    return [{"method": method, "rate": RATES[1], "seed": 0} for method in SETTINGS]


@functools.lru_cache(maxsize=2)
def base_of(small):
    return AutoModelForCausalLM.from_pretrained("tiny-python" if small else "smollm2")


@functools.lru_cache(maxsize=2)
def texts_of(small):
    """(what is learnt, {loss: windows})."""
    tokenizer, prose = AutoTokenizer.from_pretrained("tiny-python" if small else "smollm2"), prose_documents()
    prose, (length, count) = split_documents(prose), (32, 2) if small else (LENGTH, SHOWN)
    held = {"validation": prose["validation"], "prose": prose["test"]}
    windows = {name: TextData(text, tokenizer, length, ROWS).windows() for name, text in held.items()}
    found = {name: evenly_spaced(own, count) for name, own in windows.items()}
    return TextData(prose["train"], tokenizer, length, ROWS), found


@functools.lru_cache(maxsize=8)
def _start(method, small, device):
    """The base as the method has it, with LoftQ's adapter, whose start is the same for all seeds."""
    model = rounded(copy.deepcopy(base_of(small)).to(device), method)
    return _adapted(model, method, small) if method == "LoftQ" else model


@functools.lru_cache(maxsize=8)
def losses_before(method, small, device):
    """The losses before training; no adapter changes them, as B is zero or has been made up for."""
    return losses_of(_start(method, small, device), texts_of(small)[1])


def _adapted(model, method, small):
    return get_peft_model(model, four_bits.config(method, fan_in_fan_out=small))


def losses_of(model, windows):
    return {name: round(evaluate(model, own, batch_size=16), 5) for name, own in windows.items()}


def run(point, small=False, device="cpu", marks=None):
    """A point with its losses before and after, and once the update is merged, and the base's bytes."""
    began, method = time.perf_counter(), point["method"]
    text, held_out = texts_of(small)
    manual_seed(point["seed"])
    model = copy.deepcopy(_start(method, small, device))
    model = model if method == "LoftQ" else _adapted(model, method, small)
    steps = 4 if small else STEPS
    marks = marks or (steps,)
    columns = {"step": [0], **{name: [loss] for name, loss in losses_before(method, small, device).items()}}
    args = TrainingArguments(steps=steps, learning_rate=point["rate"], warmup_steps=steps // 10, seed=point["seed"])

    def look(step):
        for name, value in {"step": step, **losses_of(model, held_out)}.items():
            columns[name].append(value)

    diverged = look_along(model, text, args, marks, look)
    trainable = sum(p.size for p in model.parameters() if p.requires_grad)
    reduced = {} if diverged else after(model, lambda merged: losses_of(merged, {"prose": held_out["prose"]}), method)
    seconds = round(time.perf_counter() - began, 2)
    return {**point, **columns, "trainable": trainable, **reduced, "seconds": seconds, "diverged": diverged}


def verdicts(data):
    """The four claims of four_bits.py, by its rules."""
    starts = [run["prose"][0] for run in data["runs"] if run["method"] == FLOAT]
    return four_bits.verdicts({**data, "base": {"prose": starts[0]}}, "SmolLM2: ", "second_bits", SEEN)


def table(data):
    """{method: {"rate", "edge", "bytes", "before", "after", "merged"}}: means of the test losses at the best rate.

    edge: is that the lowest or the highest of the rates?
    """
    found = {}
    for method, runs in four_bits.trained(data).items():
        row = {"rate": runs[0]["rate"], "edge": runs[0]["rate"] in (RATES[0], RATES[-1])}
        row |= {"bytes": runs[0]["base_bytes"], "before": runs[0]["prose"][0]}
        row["after"] = interval([final(run) for run in runs])[0]
        found[method] = {**row, "merged": interval([run["merged"]["prose"] for run in runs])[0]}
    return found
