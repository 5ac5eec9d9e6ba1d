"""`train` on NVIDIA GPUs: `python tests/benchmarks/gpu_training.py [--gpus N]`, with CuPy.

SmolLM2-135M's shape, rank 8 on all linear layers, batches of 8 rows of 40 to 512 tokens: milliseconds for each step,
with recorded steps and without, with and without dropout in front of A. Shapes that are met for the first and second
time cost more, and so the clock starts after some steps; a line has the time of these too.

--gpus N: GPT-2 medium, rank 8 on c_attn, 8 rows of 512 tokens on each GPU: one process, then N at the same time.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gpu import WORKLOADS

import lora_np
from lora_np.training import loop

RECORDED, PORT = loop.recorded_step, 13_579
STEPS = {True: (100, 100), False: (15, 25)}  # recorded? -> steps before the clock starts, and after


class Unequal:
    """Rows of random lengths, filled up on the right to a multiple of 8, as `ExampleData` does."""

    def __init__(self, words, rows, lengths):
        self.words, self.rows, self.lengths = words, rows, lengths

    def batch(self, seed, step):
        rng = np.random.default_rng((seed, step))
        lengths = rng.integers(*self.lengths, self.rows, endpoint=True)
        ids = rng.integers(0, self.words, (self.rows, -(-lengths.max() // 8) * 8))
        return {"input_ids": ids, "labels": np.where(np.arange(ids.shape[1]) < lengths[:, None], ids, -100)}


class Clock:
    """Data that notes when some steps begin, once all that was begun before is done."""

    def __init__(self, data, steps):
        self.data, self.times = data, dict.fromkeys(steps)

    def batch(self, seed, step):
        if step in self.times and self.times[step] is None:
            lora_np.cuda.synchronize()
            self.times[step] = time.perf_counter()
        return self.data.batch(seed, step)


def trained(folder, dtype, dropout, data, steps, communicator=None, device="cuda"):
    """(ms of a step before the clock starts, ms of a step after, the last loss)."""
    said = json.loads((Path(folder) / "adapter" / "adapter_config.json").read_text())
    model = lora_np.AutoModelForCausalLM.from_pretrained(folder, device=device, dtype=dtype)
    names = ("r", "target_modules", "fan_in_fan_out")
    config = lora_np.LoraConfig(**{name: said[name] for name in names}, lora_dropout=dropout)
    lora_np.manual_seed(0)
    model = lora_np.get_peft_model(model, config).to(device)
    warm, measured = steps
    clock = Clock(data, (0, warm, warm + measured))
    args = lora_np.TrainingArguments(steps=warm + measured + 1)
    history = lora_np.train(model, clock, args, progress=False, communicator=communicator)
    first, then, end = clock.times.values()
    return 1e3 * (then - first) / warm, 1e3 * (end - then) / measured, history["loss"][-1]


def unequal(folder):
    """Print the table of unequal lengths."""
    import cupy

    from lora_np.autograd.precision import set_tf32

    data = Unequal(WORKLOADS["smollm2"].vocab_size, 8, (40, 512))
    print(f"{'precision':<10}{'dropout':>8}{'recorded':>10}{'ms':>8}{'ms before':>11}{'GiB':>7}{'loss':>9}")
    for precision in ("tf32", "bfloat16"):
        set_tf32(precision == "tf32")
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        for dropout in (0.0, 0.05):
            for recorded in (True, False):
                loop.recorded_step = RECORDED if recorded else lambda *args: None
                before, ms, loss = trained(folder, dtype, dropout, data, STEPS[recorded])
                free, total = cupy.cuda.runtime.memGetInfo()
                used = (total - free) / 2**30
                row = f"{precision:<10}{dropout:>8}{recorded!s:>10}{ms:>8.1f}{before:>11.1f}{used:>7.1f}{loss:>9.4f}"
                print(row, flush=True)
                gc.collect()
                cupy.get_default_memory_pool().free_all_blocks()


def together(folder, size):
    """Print the times of 1 process and of `size`."""
    found = {}
    for processes in (1, size):
        command = [sys.executable, __file__, "--work", folder, str(processes)]
        started = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(processes)
        ]
        answers = [process.communicate()[0] for process in started]
        assert not any(process.returncode for process in started)
        found[processes] = json.loads(answers[0].splitlines()[-1])
    print(f"{'precision':<10}{'recorded':>10}{'1 GPU, ms':>11}{f'{size} GPUs, ms':>12}{'speed-up':>10}")
    for (precision, recorded, alone), (_, _, all_at_once) in zip(found[1], found[size], strict=True):
        print(f"{precision:<10}{recorded!s:>10}{alone:>11.1f}{all_at_once:>12.1f}{size * alone / all_at_once:>10.2f}")


def work(folder, size, rank):
    """One of the processes: prints [[precision, recorded, ms of a step]]."""
    from lora_np.autograd import gpus
    from lora_np.autograd.precision import set_tf32
    from lora_np.training.parallel import NCCLCommunicator

    device = f"cuda:{rank}"
    group = gpus.connected(rank, size, PORT) if size > 1 else None
    communicator = NCCLCommunicator(group, rank, size, device) if group else None
    data = Unequal(WORKLOADS["medium"].vocab_size, 8 * size, (512, 512))
    rows = []
    for precision in ("tf32", "bfloat16"):
        set_tf32(precision == "tf32")
        for recorded in (True, False):
            loop.recorded_step = RECORDED if recorded else lambda *args: None
            dtype = "bfloat16" if precision == "bfloat16" else "float32"
            steps = (10, 60 if recorded else 30)
            rows.append([precision, recorded, trained(folder, dtype, 0.0, data, steps, communicator, device)[1]])
            gc.collect()
    print(json.dumps(rows), flush=True)


def main():
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        folder, size, rank = options.work
        work(folder, int(size), int(rank))
        return
    import cupy
    from systems import prepare

    name = "smollm2" if options.gpus == 1 else "medium"
    with tempfile.TemporaryDirectory() as folder:
        prepare(WORKLOADS[name], Path(folder), "bfloat16")
        print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
        if options.gpus > 1:
            together(folder, options.gpus)
        else:
            unequal(folder)


if __name__ == "__main__":
    main()
