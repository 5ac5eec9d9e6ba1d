"""The same code on a CPU and on a GPU: does it compute the same, how fast is it, and where does a step's time go?

`python -m lora_np.course.gpu --out FILE` measures on this machine, in less than a minute where there is a GPU. Notebook
11 does the same live where there is one, and elsewhere shows gpu_times.json, the figures that are shipped here.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import threading
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..autograd import backend, fused, manual_seed
from ..lora import LoraConfig, get_peft_model
from ..models import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from ..models.auto import TINY_PYTHON
from ..storage import replacing
from ..training import AdamW, TextData, prose_documents
from ..training.recorded import RecordedStep

GPT2_SHAPE = "GPT-2 124M"
BATCHES = {TINY_PYTHON: (16, 256), GPT2_SHAPE: (8, 512)}  # model: (sequences, tokens in each) of a step
ORDINARY, RECORDED = "ordinary", "recorded"
MODES = {  # on a GPU: (kind of step, TF32?)
    "float32": (ORDINARY, False),
    "float32, recorded": (RECORDED, False),
    "TF32": (ORDINARY, True),
    "TF32, recorded": (RECORDED, True),
}

PARTS = {  # what the picture tells apart: the engine's fused operations
    "linear layers": ("linear", "lora_linear"),
    "attention": ("self_attention", "attention", "rotary"),
    "norm, GELU": ("layer_norm", "rms_norm", "gelu", "silu", "swiglu", "relu"),
    "head and loss": ("linear_cross_entropy", "cross_entropy"),
    "optimizer": ("adamw",),
}
REST = "the rest"  # residual sums, embedding, Python between the operations, waiting


class Span(NamedTuple):
    """One operation of a step. Times in milliseconds since the step began; `lane` is the number of its thread."""

    part: str
    phase: str  # "forward", "backward" or "step"
    start: float
    end: float
    lane: int


@dataclasses.dataclass
class Timeline:
    """One training step: its operations and how long it took, in milliseconds."""

    spans: list
    milliseconds: float

    @property
    def lanes(self):
        """How many threads worked on it."""
        return 1 + max((span.lane for span in self.spans), default=0)

    def by_part(self):
        """{part: milliseconds}, with the `REST`; they add up to the step.

        Where several threads worked at the same time, each operation counts by its share of them.
        """
        totals = dict.fromkeys(PARTS, 0.0)
        for span in self.spans:
            totals[span.part] += (span.end - span.start) / self.lanes
        return {**totals, REST: max(0.0, self.milliseconds - sum(totals.values()))}


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
    """How far float32, and on a GPU TF32, are from float64 on the CPU: [{"device", "precision", "logits", "gradients"}].

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
    gradients = {name: backend.to_numpy(p.grad) for name, p in model.named_parameters() if p.requires_grad}
    return output.logits.numpy(), gradients


def _distance(found, exact):
    return float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))


@contextmanager
def _tf32(enabled):
    before = backend.tf32_enabled()
    backend.set_tf32(enabled)
    try:
        yield
    finally:
        backend.set_tf32(before)


# How fast is it?


def step_times(step, device, rounds=3, steps=10, warm_up=3):
    """Milliseconds per step, one number for each round of `steps` steps with no waiting in between."""
    for _ in range(warm_up):
        step()
    times = []
    for _ in range(rounds):
        backend.synchronize(device)
        start = backend.moment(device)
        for _ in range(steps):
            step()
        times.append(1e3 * backend.seconds_between(start, backend.moment(device)) / steps)
    return times


def time_model(name, device, mode="float32", **repeats):
    """Time the training step of one model on one device in one of `MODES`; `repeats` as for `step_times`.

    {"model", "device", "mode", "tokens" of a step, "milliseconds" of each round}. On a CPU the mode is float32.
    """
    kind, tf32 = MODES[mode]
    model, batch = make_model(name, device), make_batch(name)
    optimizer = make_optimizer(model)
    with _tf32(tf32):
        recorded = RecordedStep(model, optimizer) if kind == RECORDED else None
        step = (lambda: recorded(batch)) if recorded else (lambda: train_step(model, optimizer, batch))
        times = [round(t, 4) for t in step_times(step, device, **repeats)]
    return {"model": name, "device": device, "mode": mode, "tokens": batch["input_ids"].size, "milliseconds": times}


# Where does the time go?


@contextmanager
def watched(device="cpu"):
    """Inside this block, each fused operation of the engine notes when it begins and ends; yields the list of notes.

    A note is (operation, phase, moment of beginning, moment of end, thread). The engine looks its operations up by
    name at each call; here others stand under these names, which note, call the first, and note again.
    """
    places = [fused]
    if device != "cpu":
        from ..autograd import cuda

        places.append(cuda)
    notes, before = [], []
    for place in places:
        for name in place.__all__:
            operation, _, phase = name.rpartition("_")
            if phase in ("forward", "backward"):
                function = getattr(place, name)
                before.append((place, name, function))
                setattr(place, name, _noting(function, operation, phase, device, notes))
    try:
        yield notes
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def _noting(function, operation, phase, device, notes):
    def noting(*args, **kwargs):
        start = backend.moment(device)
        result = function(*args, **kwargs)
        notes.append((operation, phase, start, backend.moment(device), threading.get_ident()))
        return result

    return noting


def time_line(model, optimizer, batch, device="cpu", warm_up=2):
    """The `Timeline` of one training step, after some that are not looked at.

    Nobody waits between them, so that a GPU that is slower than Python still has work when the step that is looked at
    begins, and an operation's time there is its own.
    """
    for _ in range(warm_up):
        train_step(model, optimizer, batch)
    with watched(device) as notes:
        start = backend.moment(device)
        model(**batch).loss.backward()
        before = backend.moment(device)
        optimizer.step()
        end = backend.moment(device)
    optimizer.zero_grad()
    notes.append(("adamw", "step", before, end, threading.get_ident()))
    return Timeline(_spans(notes, start), 1e3 * backend.seconds_between(start, end))


def _spans(notes, start):
    part_of = {operation: part for part, operations in PARTS.items() for operation in operations}
    lanes = {threading.get_ident(): 0}
    spans = []
    for operation, phase, begin, end, thread in notes:
        lane = lanes.setdefault(thread, len(lanes))
        times = (1e3 * backend.seconds_between(start, moment) for moment in (begin, end))
        spans.append(Span(part_of[operation], phase, *times, lane))
    return sorted(spans, key=lambda span: span.start)


# All of it, and the file that is shipped


def measure(rounds=3, steps=10, say=lambda line: None):
    """Everything that notebook 11 shows, on this machine: {"about", "parity", "times", "time_lines"}.

    Without a GPU: tiny-python on the CPU. With one: both models on both. `say` receives a line for each measurement.
    """
    gpu = backend.gpu_available()
    device = "cuda" if gpu else "cpu"
    about = {"gpu": backend.device_name("cuda") if gpu else None, "cpu": backend.device_name("cpu")}
    result = {"about": {**about, "python": platform.python_version()}, "parity": parity(device), "times": []}
    once = {"rounds": 1, "steps": 1, "warm_up": 1}  # a step of GPT-2 takes seconds on a CPU
    plan = [(name, device, mode, {}) for name in BATCHES for mode in MODES] if gpu else []
    plan += [(TINY_PYTHON, "cpu", "float32", {})] + ([(GPT2_SHAPE, "cpu", "float32", once)] if gpu else [])
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
    return json.loads(files("lora_np.course").joinpath("gpu_times.json").read_text(encoding="utf-8"))


def describe(result):
    """Which machine a result is from, in one line."""
    about = result["about"]
    return f"{about['gpu'] or 'no GPU'}; {about['cpu']}; Python {about['python']}"


def format_times(result):
    """A table: the median over the rounds, their range, and how many times as fast as the CPU."""
    lines = [
        f"{'model':<12} {'device':<6} {'mode':<18} {'ms a step':>10} {'(range)':>18} {'tokens/s':>12} {'vs CPU':>8}"
    ]
    on_cpu = {row["model"]: statistics.median(row["milliseconds"]) for row in result["times"] if row["device"] == "cpu"}
    for row in sorted(result["times"], key=lambda row: (list(BATCHES).index(row["model"]), row["device"])):
        times, middle = row["milliseconds"], statistics.median(row["milliseconds"])
        spread = f"({min(times):.2f} - {max(times):.2f})" if len(times) > 1 else "(once)"
        ratio = f"{on_cpu[row['model']] / middle:.1f}x" if row["model"] in on_cpu else ""
        rate = f"{1e3 * row['tokens'] / middle:,.0f}"
        head = f"{row['model']:<12} {row['device']:<6} {row['mode']:<18}"
        lines.append(f"{head} {middle:>10.2f} {spread:>18} {rate:>12} {ratio:>8}")
    return "\n".join(lines)


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
