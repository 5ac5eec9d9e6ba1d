"""Compare lora_np with PyTorch, Transformers, PEFT, other NumPy libraries and the matrix products alone:

    pip install -e '.[parity]'
    pip install mygrad autograd        # optional, for the workload "full"
    python tests/benchmarks/run.py

Each system runs in a process of its own on the same weights, adapter and batch. A few steps of one system, as in
training without a pause between them, alternate with a few of the others, so that a machine that slows down slows all
of them; only ratios within one run mean anything. The first step of each turn is not counted. The systems must compute
the same: the losses of the first steps agree, and generated tokens are equal. A system whose libraries are not
installed is left out, and the run says so. "+mallopt" is a library whose process keeps freed memory for reuse, which
lora_np asks for by itself.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import tempfile
import time

import numpy as np
from processes import Worker, import_once
from systems import SYSTEMS, prepare
from threadpoolctl import threadpool_info
from workloads import WORKLOADS

TURN, PAUSE = 4, 0.3  # steps in a row; seconds between systems: thread pools spin for a while before they sleep
IMPORT_TURNS = 5
IMPORTS = {
    "numpy": "import numpy",
    "lora_np": "import lora_np",
    "all of lora_np": "from lora_np import *",
    "torch": "import torch",
}
REFERENCES = {  # kind of workload: {head of a column: system that all are compared with}
    "lora": {"torch": "torch + PEFT", "floor": "products alone"},
    "full": {"torch": "torch", "mygrad": "mygrad", "floor": "products alone"},
    "generate": {"Transf.": "Transformers"},
    "merged": {"base": "base"},
    "import": {"torch": "torch"},
}
PACKAGES = {
    "torch + PEFT": ("torch", "transformers", "peft"),
    "torch": ("torch", "transformers"),
    "Transformers": ("torch", "transformers"),
    "mygrad": ("mygrad",),
    "autograd": ("autograd",),
    "mygrad+mallopt": ("mygrad",),
    "autograd+mallopt": ("autograd",),
}


def measure(name, systems, turns=None):
    """{system: {"seconds": median, "peak": bytes}} of one workload, once the results are known to agree."""
    workload = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        prepare(workload, folder)
        workers = {system: Worker(system, name, folder) for system in systems}
        for _ in range(turns or workload.turns):
            for worker in workers.values():
                worker.steps(TURN)
                time.sleep(PAUSE)
        peaks = {system: worker.finish() for system, worker in workers.items()}
    results = {system: worker.results for system, worker in workers.items() if worker.results[0] is not None}
    check_agreement(results)
    if workload.kind in ("lora", "full"):
        check_learning(results)
    return {
        system: {"seconds": statistics.median(worker.seconds), "peak": peaks[system]}
        for system, worker in workers.items()
    }


def measure_imports(names, turns=None):
    """The same for imports, each time in a new process; the first reads the files from the disk."""
    found = {name: [] for name in names}
    for _ in range(1 + (turns or IMPORT_TURNS)):
        for name, answers in found.items():
            answers.append(import_once(IMPORTS[name]))
    return {
        name: {
            "seconds": statistics.median(answer["seconds"] for answer in answers[1:]),
            "peak": max(answer["peak_bytes"] for answer in answers),
        }
        for name, answers in found.items()
    }


def check_agreement(results, steps=5, tolerance=1e-4):
    """The systems must compute the same thing: the numbers of the first steps agree, tokens are equal."""
    first, *others = results.values() if results else [[]]
    for other in others:
        for a, b in zip(first[:steps], other[:steps], strict=True):
            if a != b if isinstance(a, list) else abs(a - b) > tolerance * abs(a):
                raise AssertionError(f"the systems do not compute the same: {results}")


def check_learning(results):
    """Each step must change the weights: the losses of the first steps differ."""
    for system, losses in results.items():
        if len(set(losses[:3])) < len(losses[:3]):
            raise AssertionError(f"{system} does not learn: its losses are {losses}")


def available(systems):
    """Those systems whose libraries are installed; says which are not."""
    found = []
    for system in systems:
        missing = [name for name in PACKAGES.get(system, ()) if importlib.util.find_spec(name) is None]
        if missing:
            print(f"  {system} is left out, not installed: pip install {' '.join(missing)}")
        else:
            found.append(system)
    return found


def print_table(kind, results, new_tokens=0):
    """One workload's rows: milliseconds, ratios to the references, memory; tokens per second if it writes any."""
    references = {head: results[name] for head, name in REFERENCES[kind].items() if name in results}
    columns = ["ms", *(f"/ {head}" for head in references), "peak MiB", *(f"/ {head}" for head in list(references)[:1])]
    print_row("", columns + ["tokens/s"] * bool(new_tokens))
    for system, row in results.items():
        times = [f"{row['seconds'] / other['seconds']:.2f}" for other in references.values()]
        memory = [f"{row['peak'] / other['peak']:.2f}" for other in list(references.values())[:1]]
        cells = [f"{1e3 * row['seconds']:.1f}", *times, f"{row['peak'] / 2**20:.0f}", *memory]
        print_row(system, cells + [f"{new_tokens / row['seconds']:.1f}"] * bool(new_tokens))


def blas():
    """Which library, and for which kind of processor. OpenBLAS finds that out unless a variable tells it."""
    found = next((x for x in threadpool_info() if x["user_api"] == "blas"), None)
    told = os.environ.get("OPENBLAS_CORETYPE")
    text = f"{found['internal_api']} {found['version']}, {found.get('architecture')}" if found else "unknown"
    return f"{text} (as OPENBLAS_CORETYPE says, not by itself)" if told else text


def print_row(name, cells):
    print(f"  {name:<18}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


def run(name, wanted, turns):
    """Measure one workload and print its table."""
    workload = WORKLOADS.get(name)
    kind = workload.kind if workload else name
    print(f"\n{workload.title if workload else 'Import, each time in a new process'}")
    systems = IMPORTS if kind == "import" else SYSTEMS[kind]
    systems = available([system for system in systems if system in wanted])
    if not systems:
        print("  nothing to compare here")
    elif kind == "import":
        print_table(kind, measure_imports(systems, turns))
    else:
        print_table(kind, measure(name, systems, turns), workload.new_tokens)


def main():
    """Read the command line, measure, print."""
    everything = list(dict.fromkeys(system for systems in (*SYSTEMS.values(), IMPORTS) for system in systems))
    names = [*WORKLOADS, "import"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=names,
        default=names,
        metavar="WORKLOAD",
        help=f"which to run: {', '.join(names)}",
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=everything,
        default=everything,
        metavar="SYSTEM",
        help=f"which to compare: {', '.join(everything)}",
    )
    parser.add_argument("--turns", type=int, help="turns of each system, instead of each workload's own number")
    options = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    print(f"NumPy {np.__version__}, products by {blas()}")
    for name in options.workloads:
        run(name, options.systems, options.turns)


if __name__ == "__main__":
    main()
