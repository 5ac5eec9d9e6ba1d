"""The GPU rows: `python tests/benchmarks/gpu.py`, on a machine with an NVIDIA GPU, CuPy, torch, Transformers and PEFT.

Each system trains in a process of its own on the same random weights (those of bfloat16, so that all can have them),
adapter and batch. A measurement is STEPS steps without any waiting in between, then one synchronisation; measurements
alternate between the systems. The losses of the first step must agree. Memory is what the allocator holds at
most. The floor is the step's FLOPs over the rate of a 4096-cubed product in the same precision.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from workloads import LLAMA_1B, SMOLLM2, Workload

STEPS, ROUNDS, LEARNING_RATE = 10, 4, 1e-3
WORKLOADS = {
    "gpt2": Workload("GPT-2 124M, c_attn r=8, 8x512", 50257, 768, 12, 12, batch=8, length=512),
    "medium": Workload("GPT-2 medium, c_attn r=8, 8x512", 50257, 1024, 24, 16, batch=8, length=512),
    "smollm2": Workload("SmolLM2-135M's shape, all-linear r=8, 8x512", **SMOLLM2, batch=8, length=512),
    "llama-1b": Workload("Llama-3.2-1B's shape, all-linear r=16, 4x1024", **LLAMA_1B, batch=4, length=1024),
    "small": Workload("4 layers x 128 wide, c_attn r=8, 32x128", 256, 128, 4, 4, batch=32, length=128),
}
SYSTEMS = {  # name: (library, precision)
    "lora_np float32": ("lora_np", "float32"),
    "  recorded": ("recorded", "float32"),
    "torch float32": ("torch", "float32"),
    "lora_np TF32": ("lora_np", "tf32"),
    "  recorded, TF32": ("recorded", "tf32"),
    "torch TF32": ("torch", "tf32"),
    "recorded, bfloat16": ("recorded", "bfloat16"),
    "torch bfloat16": ("torch", "bfloat16"),
    "  compiled": ("compiled", "bfloat16"),
}
CLOSE = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 2e-2}  # how far from the first loss, relative


def lora_np_system(workload, folder, precision, recorded=False):
    """(step, wait, peak bytes) of lora_np: step() -> a loss on the GPU."""
    import cupy

    import lora_np
    from lora_np.autograd.precision import set_tf32
    from lora_np.training.parallel import RecordedStep

    set_tf32(precision == "tf32")
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    model = lora_np.AutoModelForCausalLM.from_pretrained(folder, device="cuda", dtype=dtype)
    model = lora_np.PeftModel.from_pretrained(model, Path(folder) / "adapter", is_trainable=True).train()
    optimizer = lora_np.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    ids, wait = batch_of(workload), cupy.cuda.Device().synchronize
    if not recorded:
        return stepper(model, optimizer, ids), wait, cupy.get_default_memory_pool().total_bytes
    step, usual = RecordedStep(model, optimizer), cupy.get_default_memory_pool().total_bytes
    return lambda: step({"input_ids": ids, "labels": ids}), wait, lambda: usual() + step.nbytes()


def torch_system(workload, folder, precision, compiled=False):
    """The same of PyTorch + PEFT, eager or compiled."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).cuda()
    model = PeftModel.from_pretrained(model, str(Path(folder) / "adapter"), is_trainable=True).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    ids = torch.from_numpy(batch_of(workload)).cuda()
    model = torch.compile(model) if compiled else model
    return stepper(model, optimizer, ids), torch.cuda.synchronize, torch.cuda.max_memory_reserved


def stepper(model, optimizer, ids):
    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def batch_of(workload):
    return np.random.default_rng(0).integers(0, workload.vocab_size, (workload.batch, workload.length))


def work(system, name, folder):
    """Obey lines on standard input: each "go" is a measurement, answered with seconds per step and its first loss."""
    library, precision = SYSTEMS[system]
    make = torch_system if library in ("torch", "compiled") else lora_np_system
    options = {library: True} if library in ("recorded", "compiled") else {}
    step, wait, peak = make(WORKLOADS[name], folder, precision, **options)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        wait()
        began = time.perf_counter()
        losses = [step() for _ in range(STEPS)]
        launched = time.perf_counter()
        wait()
        seconds = (time.perf_counter() - began) / STEPS
        host = (launched - began) / STEPS
        found = {"seconds": seconds, "host": host, "loss": float(losses[0].item()), "peak": peak()}
        print(json.dumps(found), flush=True)


class Worker:
    """A system in its own process. It loads, compiles and measures once at once, beside all others: `answers[0]`."""

    def __init__(self, system, name, folder):
        command = [sys.executable, __file__, "--work", system, name, folder]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answers = []
        self.say_go()

    def ready(self):
        """Wait until that is done."""
        self.read()
        self.answers.append(self.read())

    def say_go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"a benchmark process ended early with status {self.process.wait()}")

    def go(self):
        self.say_go()
        self.answers.append(self.read())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def matmul_rate(precision, size=4096, repeats=20):
    """FLOP/s of a square product."""
    import cupy

    from lora_np.autograd.cuda.blas import gemm
    from lora_np.autograd.precision import set_tf32

    set_tf32(precision == "tf32")
    from lora_np.nn import float_type

    a = cupy.random.standard_normal((size, size), dtype=np.float32)
    a = a.astype(float_type("bfloat16")) if precision == "bfloat16" else a
    out = gemm(a, a)
    cupy.cuda.Device().synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        gemm(a, a, out=out)
    cupy.cuda.Device().synchronize()
    return 2 * size**3 * repeats / (time.perf_counter() - began)


def measure(name, workers):
    """Print one workload's table."""
    workload = WORKLOADS[name]
    flops = sum(2 * m * k * n * repeats for m, k, n, repeats in workload.products())
    for _ in range(ROUNDS):
        for worker in workers.values():
            worker.go()
    for worker in workers.values():
        worker.end()
    first = {system: worker.answers[0]["loss"] for system, worker in workers.items()}
    print(f"\n{workload.title}, {flops / 1e12:.2f} TFLOP of products")
    print(f"  {'system':<20}{'ms':>8}{'host ms':>9}{'GiB':>7}{'loss':>9}")
    for system, worker in workers.items():
        seconds = statistics.median(answer["seconds"] for answer in worker.answers[1:])
        host = statistics.median(answer["host"] for answer in worker.answers[1:])
        peak = worker.answers[-1]["peak"] / 2**30
        print(f"  {system:<20}{1e3 * seconds:>8.2f}{1e3 * host:>9.2f}{peak:>7.2f}{first[system]:>9.4f}", flush=True)
    for precision, rate in RATES.items():
        print(f"  products alone, {precision}: {1e3 * flops / rate:.2f} ms at {rate / 1e12:.0f} TFLOP/s", flush=True)
    expected = next(iter(first.values()))
    for system, loss in first.items():
        assert abs(loss - expected) < CLOSE[SYSTEMS[system][1]] * expected, f"the losses differ: {first}"


RATES = {}


def main():
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    import cupy

    print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    for precision in ("float32", "tf32", "bfloat16"):
        RATES[precision] = matmul_rate(precision)
    cupy.get_default_memory_pool().free_all_blocks()
    from systems import prepare

    with tempfile.TemporaryDirectory() as folder:
        all_workers = {}
        for name in options.workloads:
            prepare(WORKLOADS[name], Path(folder) / name, "bfloat16")
            all_workers[name] = {system: Worker(system, name, str(Path(folder) / name)) for system in options.systems}
        for workers in all_workers.values():
            for worker in workers.values():
                worker.ready()
        for name, workers in all_workers.items():
            measure(name, workers)


if __name__ == "__main__":
    main()
