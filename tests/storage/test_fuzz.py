"""Whatever a file holds, reading it ends soon, in an error that names it or in something sound.

Each reader is given changed files in a process of its own, always the same ones in the same order, for as many seconds
as LORA_NP_FUZZ_SECONDS says. `python tests/fuzz_readers.py NAME SECONDS CASE` repeats one case.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_readers import READERS

SECONDS = os.environ.get("LORA_NP_FUZZ_SECONDS", "2")
SCRIPT = Path(__file__).parents[1] / "fuzz_readers.py"


def run(name, seconds, *case):
    """What the script says, and its exit status."""
    command = [sys.executable, SCRIPT, name, seconds, *case]
    path = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, timeout=float(seconds) + 200, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="its timers and limits are those of Unix")
@pytest.mark.parametrize("name", [name for name in READERS if name != "broken"])
def test_a_wrong_file_is_read_or_refused_by_its_name(name):
    for package in READERS[name].needs:
        pytest.importorskip(package)
    status, said = run(name, SECONDS)
    assert status == 0, said


@pytest.mark.skipif(sys.platform == "win32", reason="its timers and limits are those of Unix")
@pytest.mark.parametrize(
    ("kind", "found"),
    [("crash", "KeyError"), ("nameless", "does not name the file"), ("slow", "more than 3 s"), ("memory", "of memory")],
)
def test_what_is_wrong_with_a_reader_is_found(monkeypatch, kind, found):
    if kind == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from /proc")
    monkeypatch.setenv("BROKEN_READER", kind)
    status, said = run("broken", "0")
    assert status == 1
    assert found in said
