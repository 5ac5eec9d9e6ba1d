"""Make data sets: `python -m lora_course.verdicts curves placement --device cuda --jobs 14 --out FOLDER`.

Each is written to FOLDER/NAME.json. What is in FOLDER/NAME.jsonl has been made before and is not made again. With
--small a few short runs of each show that everything works; their numbers mean nothing, and their files are others.
"""

import argparse
import concurrent.futures
import gc
import heapq
import itertools
import multiprocessing
import os
import platform
import sys
import time
import traceback
from pathlib import Path

from lora_np.autograd.precision import tf32_enabled
from lora_np.training import prose_documents
from lora_np.training.data import fingerprint

from ..device import device_name
from .data import append, key_of, made, write
from .points import PLANS, lateness, small_plan
from .runs import OWN, Bench

_worker = {}


def _start(options):
    _worker["bench"] = Bench(**options)


def _work(name, point):
    try:
        return _worker["bench"].run(name, point)
    except Exception:
        return {"error": traceback.format_exc(limit=-4)}
    finally:
        gc.collect()  # a recorded step and its memory are held by a circle, and Python does not see how large they are


class Here:
    """An executor that works in this process, one thing at a time."""

    def submit(self, function, *arguments):
        future = concurrent.futures.Future()
        future.set_result(function(*arguments))
        return future


class Command:
    """Makes the points of several data sets, those of the first seeds first, until all are made or time is up."""

    def __init__(self, names, out, small=False, limit=float("inf")):
        self.names, self.out, self.small, self.limit = names, Path(out), small, limit
        self.lines = {name: self.out / f"{name}{'.small' * small}.jsonl" for name in names}
        self.runs = {name: made(path) for name, path in self.lines.items()}
        self.known = {(name, key_of(run)) for name in names for run in self.runs[name]}
        self.queue, self.count, self.began, self.errors = [], itertools.count(), time.monotonic(), []

    def plan(self, names):
        """Put what is new among these data sets' points into the queue."""
        for name in names:
            for point in small_plan(name, self.runs[name]) if self.small else PLANS[name](self.runs[name]):
                key = (name, key_of(point))
                if key not in self.known:
                    self.known.add(key)
                    heapq.heappush(
                        self.queue, ((lateness(name, point), self.names.index(name), next(self.count)), name, point)
                    )

    def go(self, executor, jobs):
        """Work through the queue; at most `jobs` and, to other processes, two more points are handed over ahead."""
        self.plan(self.names)
        working, most = {}, jobs if isinstance(executor, Here) else jobs + 2
        while self.queue or working:
            late = time.monotonic() - self.began > self.limit
            while self.queue and len(working) < most and not late:
                _, name, point = heapq.heappop(self.queue)
                working[executor.submit(_work, name, point)] = name, point
            if not working:
                return
            done, _ = concurrent.futures.wait(working, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                self.take(*working.pop(future), future.result())

    def take(self, name, point, run):
        """Keep a run, and see what follows from it."""
        if "error" in run:
            self.errors.append((name, point, run["error"]))
            print(f"failed: {name} {point}\n{run['error']}", file=sys.stderr, flush=True)
            return
        self.runs[name].append(run)
        append(run, self.lines[name])
        total = sum(map(len, self.runs.values()))
        if total % 25 == 0:
            counts = ", ".join(f"{name} {len(runs)}" for name, runs in self.runs.items())
            print(f"{time.monotonic() - self.began:6.0f} s: {counts}; {len(self.queue)} wait", flush=True)
        self.plan([name])

    def write(self, about, base):
        """The data sets as they are shipped."""
        for name, runs in self.runs.items():
            command = f"python -m lora_course.verdicts {name}" + " --small" * self.small
            own = {} if name in OWN else base
            write({"command": command, **about}, own, runs, self.out / f"{name}{'.small' * self.small}.json")


def main():
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(prog="python -m lora_course.verdicts", description=__doc__)
    parser.add_argument("names", nargs="+", choices=PLANS, help="data sets, the most important one first")
    parser.add_argument("--out", default="runs/verdicts", help="the folder of the results (default %(default)s)")
    parser.add_argument("--bases", default="runs/verdict_bases", help="where bases of other widths are kept")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing more is begun")
    parser.add_argument("--small", action="store_true", help="a few short runs, to see that it works")
    options = parser.parse_args()
    command = Command(options.names, options.out, options.small, options.limit)
    bench = {"device": options.device, "small": options.small, "bases": options.bases}
    if options.jobs == 1:
        _start(bench)
        command.go(Here(), 1)
    else:
        context = multiprocessing.get_context("spawn")
        settings = {"mp_context": context, "initializer": _start, "initargs": (bench,)}
        os.environ["LORA_NP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before they load NumPy
        with concurrent.futures.ProcessPoolExecutor(options.jobs, **settings) as executor:
            command.go(executor, options.jobs)
    here = Bench(**bench)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(options.device),
        "tf32": options.device != "cpu" and tf32_enabled(),
        "python": platform.python_version(),
        "text": f"Python {platform.python_version()}",  # whose source and help pages; they differ between versions
        "prose_sha256": fingerprint(prose_documents()),
        "small": options.small,
    }
    command.write(about, here.losses(here.base()))
    minutes, count = (time.monotonic() - command.began) / 60, sum(map(len, command.runs.values()))
    print(f"{count} runs in {options.out} after {minutes:.1f} minutes, {len(command.errors)} failed")
    sys.exit(bool(command.errors))
