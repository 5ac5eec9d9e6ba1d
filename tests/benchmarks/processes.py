"""Processes to measure in: one that makes steps when told to, and one that only imports a package."""

import json
import subprocess
import sys
from pathlib import Path

IMPORT = """
import sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
sys.path.insert(0, {folder!r})
import json
from memory import peak_memory
print(json.dumps({{"seconds": seconds, "peak_bytes": peak_memory()}}))
"""


class Worker:
    """A system in its own process, which `systems.py` runs."""

    def __init__(self, system, workload, folder):
        self.system, self.seconds, self.results = system, [], []
        self.errors = Path(folder) / f"{system}.errors"
        command = [sys.executable, Path(__file__).with_name("systems.py"), system, workload, folder]
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.read()

    def read(self):
        """The next line that is JSON; libraries may print others."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        status = self.process.wait()
        last = self.errors.read_text()[-2000:]
        raise RuntimeError(f"{self.system} ended early with status {status}; its last words:\n{last}")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def steps(self, number):
        """So many steps in a row. The first is not timed: the other systems had the processor's caches before it."""
        answers = [self.say("step") for _ in range(number)]
        self.seconds += [answer["seconds"] for answer in answers[1:]]
        self.results += [answer["result"] for answer in answers]

    def finish(self):
        """The peak memory in bytes."""
        peak = self.say("end")["peak_bytes"]
        self.process.wait()
        return peak


def import_once(statement):
    """{"seconds": for the import, "peak_bytes": of the process}."""
    code = IMPORT.format(statement=statement, folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
