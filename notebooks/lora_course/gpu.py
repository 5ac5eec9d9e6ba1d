"""The same code on a CPU and on a GPU: does it compute the same, how fast is it, and where does a step's time go?

`python -m lora_course.gpu --out FILE` measures on this machine, in less than a minute where there is a GPU. Notebook
11 does the same live where there is one, and elsewhere shows gpu_times.json, the figures that are shipped here.
"""

import argparse
import json
import platform
import statistics
import time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np

from lora_np.autograd import manual_seed
from lora_np.autograd.devices import to_numpy
from lora_np.autograd.precision import set_tf32, tf32_enabled
from lora_np.lora import LoraConfig, get_peft_model
from lora_np.models import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from lora_np.models.loading.auto import TINY_PYTHON
from lora_np.storage import replacing
from lora_np.training import AdamW, TextData, prose_documents
from lora_np.training.parallel import RecordedStep

from .device import device_name, gpu_available, synchronize
from .timeline import Span, Timeline, time_line

GPT2_SHAPE = "GPT-2 124M"
BATCHES = {TINY_PYTHON: (16, 256), GPT2_SHAPE: (8, 512)}  # model: (sequences, tokens in each) of a step
MODES = {  # on a GPU: (is the step recorded, TF32?)
    "float32": (False, False),
    "float32, recorded": (True, False),
    "TF32": (False, True),
    "TF32, recorded": (True, True),
}


def make_model(name, device="cpu", started=True):
    """A model of `BATCHES` with an adapter of rank 8 beside each c_attn, ready for training; the same each time.

    started: B begins at zero, as always; False draws it too, so that the gradient of A is not zero.
    """
    manual_seed(0)
    if name == TINY_PYTHON:
        model = AutoModelForCausalLM.from_pretrained(TINY_PYTHON)
    else:
        model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=started)
    return get_peft_model(model, config).to(device).train()


def make_batch(name, sequences=None):
    """{"input_ids", "labels"}: English prose for tiny-python, random tokens for a model with random weights."""
    most, length = BATCHES[name]
    sequences = sequences or most
    if name == TINY_PYTHON:
        return TextData(prose_documents(), AutoTokenizer.from_pretrained(name), length, sequences).batch(0, 0)
    ids = np.random.default_rng(0).integers(0, GPT2Config.vocab_size, (sequences, length))
    return {"input_ids": ids, "labels": ids}


def make_optimizer(model):
    """AdamW on what is trained."""
    return AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def train_step(model, optimizer, batch):
    """Forward, backward, optimizer. The loss, where the model is: nobody waits for it."""
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.data


# Does it compute the same?


def parity(device="cpu", sequences=4):
    """How far float32, on a GPU also TF32, is from the CPU's float64: [{"device", "precision", "logits", "gradients"}].

    logits: ‖x - x₆₄‖ / ‖x₆₄‖; gradients: the same, of that adapter matrix for which it is largest.
    """
    batch = make_batch(TINY_PYTHON, sequences)
    exact = _results("cpu", np.float64, batch)
    runs = [("cpu", "float32", False)]
    if device != "cpu":
        runs += [(device, "float32", False), (device, "TF32", True)]
    rows = []
    for place, precision, tf32 in runs:
        with _tf32(tf32):
            logits, gradients = _results(place, np.float32, batch)
        worst = max(_distance(gradients[name], exact[1][name]) for name in exact[1])
        row = {"device": place, "precision": precision, "logits": _distance(logits, exact[0]), "gradients": worst}
        rows.append(row)
    return rows


def _results(device, dtype, batch):
    """Logits and {name: gradient} of tiny-python with a random adapter, as NumPy arrays."""
    model = make_model(TINY_PYTHON, started=False).to(device, dtype)
    output = model(**batch)
    output.loss.backward()
    gradients = {name: to_numpy(p.grad) for name, p in model.named_parameters() if p.requires_grad}
    return output.logits.numpy(), gradients


def _distance(found, exact):
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))


@contextmanager
def _tf32(enabled):
    before = tf32_enabled()
    set_tf32(enabled)
    try:
        yield
    finally:
        set_tf32(before)


# How fast is it?


def step_times(step, device, rounds=3, steps=10, warm_up=3):
    """(milliseconds a step, milliseconds until Python has handed it over), each a list with a number for each round.

    A round is `steps` steps with no waiting in between: a GPU works while Python hands over what comes next. Then one
    more step is handed over to a GPU that has nothing else to do; a CPU has done it when Python is through.
    """
    for _ in range(warm_up):
        step()
    times, host = [], []
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - began) / steps)
        if device != "cpu":
            began = time.perf_counter()
            step()
            host.append(1e3 * (time.perf_counter() - began))
    return times, host or times


def time_model(name, device, mode="float32", **repeats):
    """Time the training step of one model on one device in one of `MODES`; `repeats` as for `step_times`.

    {"model", "device", "mode", "tokens" of a step, "milliseconds" a step, "host": until Python has handed it over}.
    Both times are lists, a number for each round. On a CPU the mode is float32.
    """
    is_recorded, tf32 = MODES[mode]
    model, batch = make_model(name, device), make_batch(name)
    optimizer = make_optimizer(model)
    with _tf32(tf32):
        recorded = RecordedStep(model, optimizer) if is_recorded else None
        step = (lambda: recorded(batch)) if recorded else (lambda: train_step(model, optimizer, batch))
        times, host = ([round(t, 4) for t in found] for found in step_times(step, device, **repeats))
    row = {"model": name, "device": device, "mode": mode, "tokens": batch["input_ids"].size}
    return {**row, "milliseconds": times, "host": host}


# All of it, and the file that is shipped


def measure(rounds=3, steps=10, say=lambda line: None):
    """Everything that notebook 11 shows, on this machine: {"about", "parity", "times", "time_lines"}.

    Without a GPU: tiny-python on the CPU. With one: both models on both. `say` receives a line for each measurement.
    """
    gpu = gpu_available()
    device = "cuda" if gpu else "cpu"
    about = {"gpu": device_name("cuda") if gpu else None, "cpu": device_name("cpu")}
    result = {"about": {**about, "python": platform.python_version()}, "parity": parity(device), "times": []}
    plan = _plan(gpu)
    for name, place, mode, fewer in plan:
        row = time_model(name, place, mode, **{"rounds": rounds, "steps": steps, **fewer})
        say(f"{name}, {place}, {mode}: {statistics.median(row['milliseconds']):.2f} ms a step")
        result["times"].append(row)
    result["time_lines"] = [
        {"model": name, "device": place, **_packed(model_time_line(name, place))}
        for name, place in dict.fromkeys((name, place) for name, place, *_ in plan)
        if (name, place) != (GPT2_SHAPE, "cpu")
    ]
    return result


def _plan(gpu):
    """[(model, device, mode, what is other than usual)] of all that is timed."""
    plan = [(TINY_PYTHON, "cpu", "float32", {})]
    if not gpu:
        return plan
    plan += [(name, "cuda", mode, {}) for name in BATCHES for mode in MODES]
    once = {"rounds": 1, "steps": 1, "warm_up": 1}  # a step of GPT-2 takes seconds on a CPU
    return [*plan, (GPT2_SHAPE, "cpu", "float32", once)]


def model_time_line(name, device="cpu"):
    """The `Timeline` of one of the models of `BATCHES`."""
    model = make_model(name, device)
    return time_line(model, make_optimizer(model), make_batch(name), device)


def _packed(line):
    """A Timeline as JSON can hold it."""
    spans = [[span.part, span.phase, round(span.start, 4), round(span.end, 4), span.lane] for span in line.spans]
    return {"milliseconds": round(line.milliseconds, 4), "spans": spans}


def timelines(result):
    """{(model, device): Timeline} of a result of `measure`."""
    return {
        (line["model"], line["device"]): Timeline([Span(*span) for span in line["spans"]], line["milliseconds"])
        for line in result["time_lines"]
    }


def shipped():
    """The figures that come with the package, as `measure` gives them."""
    return _read("gpu_times.json")


def eight_billion():
    """What `tests/benchmarks/large.py` measured with Llama-3-8B's shape: the README's table.

    {"rows": [{"what", "1 x 512": [milliseconds of a step, peak in GiB], ...}], "cells": the batches' names,
    "weights_gib": {format: GiB}, "full_gib": 16 bytes for each weight, "device", "date", "command"}
    """
    return _read("eight_billion.json")


def _read(name):
    return json.loads(files("lora_course").joinpath(name).read_text(encoding="utf-8"))


def describe(result):
    """Which machine a result is from, in one line."""
    about = result["about"]
    return f"{about['gpu'] or 'no GPU'}; {about['cpu']}; Python {about['python']}"


def milliseconds(result, model, mode, device="cuda"):
    """The median time of a step over the rounds; NaN if this was not measured."""
    wanted = (model, mode, device)
    found = [row for row in result["times"] if (row["model"], row["mode"], row["device"]) == wanted]
    return statistics.median(found[0]["milliseconds"]) if found else float("nan")


def format_times(result):
    """A table: the median over the rounds and their range, Python's part of it, and tokens a second."""
    head = ("model", "device", "mode", "ms a step", "range", "Python, ms", "tokens/s")
    rows = sorted(result["times"], key=lambda row: (list(BATCHES).index(row["model"]), row["device"]))
    lines = [head, *map(_row_of, rows)]
    widths = (12, 6, 18, 10, 15, 11, 10)
    texts = [
        [x.ljust(w) if i < 3 else x.rjust(w) for i, (x, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join(" ".join(text) for text in texts)


def _row_of(row):
    """A row of the table, as texts."""
    times, middle = row["milliseconds"], statistics.median(row["milliseconds"])
    spread = f"{min(times):.2f}-{max(times):.2f}" if len(times) > 1 else "once"
    host = "" if row["device"] == "cpu" else f"{statistics.median(row['host']):.2f}"
    rate = f"{1e3 * row['tokens'] / middle:,.0f}"
    return row["model"], row["device"], row["mode"], f"{middle:.2f}", spread, host, rate


def write(result, path):
    """The result as JSON, one measurement a line, so that a change can be read."""
    rows = {name: ",\n".join(json.dumps(row) for row in result[name]) for name in ("parity", "times", "time_lines")}
    lists = ",\n".join(f'"{name}": [\n{lines}\n]' for name, lines in rows.items())
    with replacing(Path(path)) as temporary:
        temporary.write_text(f'{{"about": {json.dumps(result["about"])},\n{lists}}}\n', encoding="utf-8")


def main():
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/gpu_times.json", help="where the figures go (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind (default %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="training steps in each (default %(default)s)")
    options = parser.parse_args()
    result = measure(options.rounds, options.steps, say=print)
    write(result, options.out)
    print(f"\n{describe(result)}\n{format_times(result)}\nWritten to {options.out}")


if __name__ == "__main__":
    main()
