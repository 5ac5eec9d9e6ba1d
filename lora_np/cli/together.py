"""The main job in several processes, each with its own rows of every batch: `--processes`, or `mpirun` in front.

The first process does all that is seen: it writes, measures and says. The others train along, and nothing else.
"""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..autograd import gpus
from ..training.parallel.processes import (
    INSTALL,
    SIZE_VARIABLES,
    Communicator,
    NCCLCommunicator,
    SoloCommunicator,
    communicator,
)
from .options import FinetuneOptions

Others = Communicator | SoloCommunicator  # the processes that train together, this one among them

PAUSE = 0.1  # seconds between two looks at the processes
RUN = "import sys; from lora_np.cli.together import main; sys.exit(main(*sys.argv[1:]))"
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # as other kinds of MPI do


def joined() -> Others:
    """This process's place among those that mpirun has started. RuntimeError as `communicator()` says."""
    return communicator() if any(int(os.environ.get(name) or 1) > 1 for name in SIZE_VARIABLES) else SoloCommunicator()


def in_processes(processes: int, options: FinetuneOptions) -> int:
    """Run the main job in so many processes; the exit status of the first that fails, or 0.

    On GPUs, one process for each, which NCCL connects; on a CPU by mpirun. ValueError where that cannot be.
    """
    if processes < 1:
        raise ValueError(f"--processes must be at least 1, got {processes}")
    told = json.dumps(dataclasses.asdict(options))
    if options.device == "cpu":
        mpirun = shutil.which(
            "mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        )
        if mpirun is None:
            raise ValueError(f"--processes {processes} on a CPU needs mpirun, and there is none here: {INSTALL}")
        command = [mpirun, "-n", str(processes), sys.executable, "-m", "mpi4py", "-c", RUN, told]
        return _ended([subprocess.Popen(command, env={**os.environ, **OPEN_MPI})])
    if options.device != "cuda":
        raise ValueError(f"--processes takes a GPU for each process, so --device is cuda, not {options.device}")
    if (there := gpus.device_count()) < processes:
        raise ValueError(f"--processes {processes} needs a GPU for each process, and there are {there}")
    port = _free_port()
    commands = [[sys.executable, "-c", RUN, told, f"{i}/{processes}:{port}"] for i in range(processes)]
    return _ended([subprocess.Popen(command) for command in commands])


def _ended(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all processes have ended, or one has failed, and then end the others. Ctrl-C is theirs to answer."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while any(process.poll() is None for process in running):
            if any(process.poll() for process in running):
                break
            time.sleep(PAUSE)
    finally:
        for process in running:
            process.terminate()
        signal.signal(signal.SIGINT, before)
    return next((status for process in running if (status := process.wait()) > 0), 0)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _on_gpu(place: str) -> NCCLCommunicator:
    """The communicator of the process at "RANK/SIZE:PORT", whose GPU is in use from here on."""
    rank, size, port = map(int, place.replace("/", ":").split(":"))
    return NCCLCommunicator(gpus.connected(rank, size, port), rank, size, f"cuda:{rank}")


def main(told: str, place: str | None = None) -> int:
    """One of the processes."""
    from .finetune import run_with  # which starts them
    from .main import outcome

    options = FinetuneOptions(**json.loads(told))
    return outcome(lambda: run_with(options, joined() if place is None else _on_gpu(place)))
