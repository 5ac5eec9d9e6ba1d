"""Compare lora_np with PyTorch + PEFT and with the matrix products alone: `python tests/benchmarks/run.py`.

Each system runs in a process of its own on the same weights, adapter and batch. Steps alternate between the systems,
so that a machine that slows down slows all of them; only ratios within one run mean anything. The losses of the
first steps must agree. Needs `pip install -e '.[parity]'`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from systems import SYSTEMS, prepare
from workloads import WORKLOADS

WARMUP, PAUSE = 2, 0.3  # seconds between systems: thread pools spin for a while before they sleep


class Worker:
    """A system in its own process."""

    def __init__(self, system, workload, folder):
        command = [sys.executable, Path(__file__).with_name("systems.py"), system, workload, folder]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.seconds, self.losses = [], []
        self.read()

    def read(self):
        """The next line that is JSON; libraries may print others."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"a benchmark process ended early with status {self.process.wait()}")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def step(self):
        answer = self.say("step")
        self.seconds.append(answer["seconds"])
        self.losses.append(answer["loss"])

    def finish(self):
        """The peak memory in bytes."""
        peak = self.say("end")["peak_bytes"]
        self.process.wait()
        return peak


def measure(name, systems, steps=None):
    """{system: {"seconds": median, "peak": bytes}} of one workload, once the losses are known to agree."""
    workload = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        prepare(workload, folder)
        workers = {system: Worker(system, name, folder) for system in systems}
        for _ in range(WARMUP + (steps or workload.steps)):
            for worker in workers.values():
                worker.step()
                time.sleep(PAUSE)
        peaks = {system: worker.finish() for system, worker in workers.items()}
    check_losses({system: worker.losses for system, worker in workers.items() if worker.losses[0] is not None})
    return {
        system: {"seconds": statistics.median(worker.seconds[WARMUP:]), "peak": peaks[system]}
        for system, worker in workers.items()
    }


def check_losses(losses, steps=5, tolerance=1e-4):
    """The systems must compute the same thing: the losses of the first steps agree."""
    first, *others = losses.values()
    for other in others:
        for a, b in zip(first[:steps], other[:steps], strict=True):
            if abs(a - b) > tolerance * abs(a):
                raise AssertionError(f"the systems do not compute the same losses: {losses}")


def print_table(name, results):
    """One workload's rows: milliseconds, ratios, memory."""
    torch, floor = results.get("torch + PEFT"), results.get("products alone")
    print(f"\n{WORKLOADS[name].title}")
    print(f"  {'system':<16} {'ms/step':>9} {'/ torch':>8} {'/ floor':>8} {'peak MiB':>9}")
    for system, row in results.items():
        ratios = [f"{row['seconds'] / other['seconds']:.2f}" if other else "-" for other in (torch, floor)]
        print(
            f"  {system:<16} {1e3 * row['seconds']:>9.1f} {ratios[0]:>8} {ratios[1]:>8} {row['peak'] / 2**20:>9.0f}",
            flush=True,
        )


def main():
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="which to run")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="which to compare")
    parser.add_argument("--steps", type=int, help="timed steps per system, instead of each workload's own number")
    options = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    for name in options.workloads:
        print_table(name, measure(name, options.systems, options.steps))


if __name__ == "__main__":
    main()
