"""The speedrun: SmolLM2-135M to a held-out loss of 2.62 on the docstrings, in as few seconds as possible.

    lora-np fetch smollm2
    pip install -e '.[parity]'
    python tests/benchmarks/speedrun.py
    python tests/benchmarks/speedrun.py --device cuda

The task is that of `lora-np finetune --base smollm2 --data docstrings`, with its batches, its adapter's first values,
its rate and its 160 steps. Each system runs in a process of its own; they take turns of 20 steps, so that a machine
that slows down slows all of them. After each turn the loss on the 64 held-out examples is measured. The seconds are
those of the steps up to the first measurement that is 2.62, rounded; loading, compiling and measuring do not count.
To beat the table, change how it is computed or how it is trained: the rank, the rate, the optimizer, the order of the
examples. The base, the text of the examples and the 64 that are held out stay as they are, and the loss is measured
in float32, with the base's weights in float32.

On a GPU each system first makes two steps on a batch of each length, which leave the weights as they are: kernels are
compiled and, by lora_np, steps are recorded. torch.compile gets all batches padded to 256 tokens, as it compiles for
one shape; torch in its usual, eager mode gets them as they are, and so does lora_np, which fills up some of them by
itself. A turn ends when the GPU has done its work.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from lora_np.autograd import manual_seed
from lora_np.cli.finetune import _training_arguments, with_new_adapter
from lora_np.cli.options import FinetuneOptions
from lora_np.cli.task import make_task
from lora_np.models import AutoModelForCausalLM, AutoTokenizer
from lora_np.models.output import IGNORED
from lora_np.models.rope import context_length

TARGET = 2.62
TURN, PADDED = 20, 256  # steps; tokens
SYSTEMS = {  # by device: {system: its precision}
    "cpu": {"lora_np": "float32", "torch + PEFT": "float32", "torch + PEFT, bfloat16": "bfloat16"},
    "cuda": {
        "lora_np, TF32": "tf32",
        "lora_np, bfloat16": "bfloat16",
        "torch + PEFT, TF32": "tf32",
        "torch + PEFT, bfloat16": "bfloat16",
        "torch + PEFT, compiled, TF32": "tf32",
        "torch + PEFT, compiled, bfloat16": "bfloat16",
    },
}


class Lora:
    """The loop of `lora-np finetune`, and on a GPU its recorded step."""

    def __init__(self, folder, args, kind, device="cpu", compiled=False):
        from lora_np.training.loop import TrainingRun

        self.device, self.kind = device, kind
        self.model = self._load(folder, "bfloat16" if kind == "bfloat16" else "float32")
        self.judge = self._load(folder, "float32") if kind == "bfloat16" else self.model
        self.training = TrainingRun(self.model, args)
        self.training.watch.keep()

    def _load(self, folder, dtype):
        from lora_np import PeftModel

        base = AutoModelForCausalLM.from_pretrained(folder, device=self.device, dtype=dtype)
        return PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)

    def rehearse(self, batches):
        """Steps at a rate of zero, after which the optimizer is as new."""
        training = self.training
        highest, training.highest_rates = training.highest_rates, [0.0] * len(training.highest_rates)
        self.steps(batches)
        training.highest_rates, training.step = highest, 0
        for state in training.optimizer.state.values():
            state["step"] = 0
            state["m"][...] = state["v"][...] = 0

    def steps(self, batches):
        """Train on these batches."""
        from lora_np.autograd.precision import set_tf32

        set_tf32(self.kind == "tf32")
        self.model.train()
        for batch in batches:
            self.training.one_step(Given(batch))
            if self.device == "cpu":
                self.training.watch.settle()
        self.training.watch.settle()

    def losses(self, batches):
        """[(loss, how many tokens it is the mean of)]"""
        from lora_np import no_grad
        from lora_np.autograd.precision import set_tf32

        set_tf32(False)
        if self.judge is not self.model:
            for theirs, ours in zip(trained(self.judge), trained(self.model), strict=True):
                theirs.data[...] = ours.data
        self.judge.eval()
        with no_grad():
            return [(self.judge(**batch).loss.item(), counted(batch)) for batch in batches]


class Torch:
    """The same loop as a user of torch, Transformers and PEFT writes it."""

    def __init__(self, folder, args, kind, device="cpu", compiled=False):
        import torch

        self.torch, self.args, self.step, self.device, self.kind = torch, args, 0, device, kind
        self.model = self._load(folder, torch.bfloat16 if kind == "bfloat16" else torch.float32)
        self.judge = self.model if kind != "bfloat16" else self._load(folder, torch.float32)
        self.compiled = torch.compile(self.model) if compiled else None
        rates = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
        self.optimizer = torch.optim.AdamW(trained(self.model), **rates)

    def _load(self, folder, dtype):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM as Auto

        base = Auto.from_pretrained(folder, dtype=dtype).to(self.device)
        return PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)

    def rehearse(self, batches):
        """Gradients, which are forgotten."""
        self._allow_tf32(self.kind == "tf32")
        self.model.train()
        for batch in batches:
            self._loss(batch).backward()
            self.optimizer.zero_grad()
        self._wait()

    def steps(self, batches):
        """Train on these batches."""
        self._allow_tf32(self.kind == "tf32")
        self.model.train()
        for batch in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = self.args.learning_rate * self.args.rate_fraction(self.step)
            self._loss(batch).backward()
            self.torch.nn.utils.clip_grad_norm_(trained(self.model), self.args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
        self._wait()

    def _loss(self, batch):
        if self.compiled is None:
            return self.model(**self._tensors(batch)).loss
        return self.compiled(**self._tensors(padded(batch))).loss

    def losses(self, batches):
        """[(loss, how many tokens it is the mean of)]"""
        self._allow_tf32(False)
        if self.judge is not self.model:
            with self.torch.no_grad():
                for theirs, ours in zip(trained(self.judge), trained(self.model), strict=True):
                    theirs.copy_(ours)
        self.judge.eval()
        with self.torch.no_grad():
            return [(self.judge(**self._tensors(batch)).loss.item(), counted(batch)) for batch in batches]

    def _tensors(self, batch):
        return {name: self.torch.from_numpy(np.asarray(ids, np.int64)).to(self.device) for name, ids in batch.items()}

    def _allow_tf32(self, allowed):
        self.torch.backends.cuda.matmul.allow_tf32 = allowed

    def _wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def trained(model):
    """The parameters that learn."""
    return [p for p in model.parameters() if p.requires_grad]


def padded(batch):
    """A batch with rows of 256 tokens; those that are added come after the others and are not foretold."""
    missing = PADDED - batch["input_ids"].shape[1]
    fill = {"input_ids": 0, "labels": IGNORED}
    return {name: np.pad(ids, ((0, 0), (0, missing)), constant_values=fill[name]) for name, ids in batch.items()}


class Given:
    """One batch, as `TrainingRun` takes it."""

    def __init__(self, batch):
        self.given = batch

    def batch(self, seed, step):
        return self.given


def counted(batch):
    """How many labels count; the first of a row is never foretold."""
    return int((batch["labels"][:, 1:] >= 0).sum())


def work(pipe, system, folder, args, device):
    """What a system's process does: steps and measurements as it is told."""
    kind = Lora if system.startswith("lora_np") else Torch
    made = kind(folder, args, SYSTEMS[device][system], device, compiled="compiled" in system)
    pipe.send("ready")
    while (told := pipe.recv()) is not None:
        name, batches = told
        began = time.perf_counter()
        found = getattr(made, name)(batches)
        pipe.send((time.perf_counter() - began, found))


class Racer:
    """A system in its own process, and what it has done: {"system", "step", "seconds", "held_out"}."""

    def __init__(self, system, folder, args, device):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, system, folder, args, device), daemon=True)
        self.process.start()
        self.done = {"system": system, "step": [], "seconds": [], "held_out": []}

    def await_ready(self):
        """Wait until it has loaded."""
        self.pipe.recv()

    def ask(self, name, batches):
        self.pipe.send((name, batches))
        return self.pipe.recv()

    def look(self, step, seconds, held_out):
        """Measure, and note."""
        losses, counts = np.transpose(self.ask("losses", held_out)[1])
        values = {
            "step": step,
            "seconds": round(seconds, 2),
            "held_out": round(float(losses @ counts / counts.sum()), 4),
        }
        for name, value in values.items():
            self.done[name].append(value)
        print(f"{self.done['system']:<24} step {step:>4} {seconds:8.1f} s   {values['held_out']:.4f}", flush=True)

    def turn(self, step, batches, held_out):
        """Some steps and a measurement."""
        seconds, _ = self.ask("steps", batches)
        self.look(step, self.done["seconds"][-1] + seconds, held_out)

    @property
    def arrived(self):
        return round(self.done["held_out"][-1], 2) <= TARGET


def prepare(folder):
    """Base and fresh adapter in `folder`; (arguments, batches of all steps, held-out batches)."""
    options = FinetuneOptions(base="smollm2", data="docstrings")
    tokenizer, model = AutoTokenizer.from_pretrained(options.base), AutoModelForCausalLM.from_pretrained(options.base)
    options = options.resolved(context_length(model.config))
    task = make_task(options, tokenizer, options.max_length)
    args = _training_arguments(options)
    model.save_pretrained(folder)
    manual_seed(options.seed)
    with_new_adapter(model, options, "CAUSAL_LM").save_pretrained(folder / "adapter")
    batches = [dict(task.train.batch(args.seed, step)) for step in range(args.steps)]
    return args, batches, [dict(batch) for batch in next(iter(task.evaluation.values())).batches(8)]


def race(systems, most=None, device="cpu", keep=lambda done: None):
    """[what each system has done], until each has arrived or made all steps. keep: called with it after each turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        args, batches, held_out = prepare(folder)
        racers = [Racer(system, folder, args, device) for system in systems]
        for racer in racers:
            racer.await_ready()
        if device != "cpu":
            rehearse(racers, batches)
        for racer in racers:
            racer.look(0, 0.0, held_out)
        for first in range(0, most or len(batches), TURN):
            last = min(first + TURN, most or len(batches))
            for racer in [racer for racer in racers if not racer.arrived]:
                racer.turn(last, batches[first:last], held_out)
            keep([racer.done for racer in racers])
        for racer in racers:
            racer.pipe.send(None)
            racer.process.join()
        return [racer.done for racer in racers]


def rehearse(racers, batches):
    """All at once: to compile takes long."""
    lengths = {batch["input_ids"].shape[1]: batch for batch in batches}
    for racer in racers:
        racer.pipe.send(("rehearse", [batch for batch in lengths.values() for _ in range(2)]))
    for racer in racers:
        racer.pipe.recv()


def main():
    """Read the command line, race, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=SYSTEMS)
    known = sorted({system for found in SYSTEMS.values() for system in found})
    parser.add_argument("--systems", nargs="+", choices=known, metavar="SYSTEM", help="; ".join(known))
    parser.add_argument("--steps", type=int, help="stop after so many, to try it out")
    parser.add_argument("--out", default="runs/speedrun.json", help="the file of the results (default %(default)s)")
    options = parser.parse_args()
    chosen = options.systems or list(SYSTEMS[options.device])[: 2 if options.device == "cpu" else None]
    if others := [system for system in chosen if system not in SYSTEMS[options.device]]:
        parser.error(f"on {options.device} there is no {others[0]!r}; there are {', '.join(SYSTEMS[options.device])}")
    load = os.getloadavg()[0]

    def keep(runs):
        about = {
            "command": "python tests/benchmarks/speedrun.py" + " --device cuda" * (options.device == "cuda"),
            "date": time.strftime("%Y-%m-%d"),
            "device": device_name(options.device),
            "python": platform.python_version(),
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],  # of the machine, before and after
            "target": TARGET,
        }
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(json.dumps({"about": about, "runs": runs}) + "\n", encoding="utf-8")

    race(chosen, options.steps, options.device, keep)


def device_name(device):
    """The card, or how many cores there are."""
    if device == "cpu":
        return f"{len(os.sched_getaffinity(0))} CPU cores"
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


if __name__ == "__main__":
    main()
