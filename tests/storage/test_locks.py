"""Locks: one run in a folder, none that outlives its process."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from process_helpers import forks, in_child, start, wait

from lora_np.storage import claimed, locks, write_text
from lora_np.storage.locks import locked


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def claim(folder):
    with claimed(folder):
        return names(folder)


def hold(folder, ready, with_child=False):
    with claimed(folder):
        if with_child:
            start(time.sleep, 3)
        os.write(ready, b"x")
        signal.pause()


def holder(folder, **options):
    """A process that claims the folder until it is killed."""
    reading, writing = os.pipe()
    process = start(lambda: hold(folder, writing, **options))
    assert os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return process


@forks
class TestClaims:
    def test_the_second_run_is_refused_at_once_and_after_the_first_there_is_room(self, tmp_path):
        with claimed(tmp_path / "out"):
            with pytest.raises(BlockingIOError, match=r"another run is writing to .*out: wait .* or choose another"):
                in_child(claim, tmp_path / "out")
            with pytest.raises(BlockingIOError):
                claim(tmp_path / "out")  # nor one in the same process
            in_child(write_text, tmp_path / "out" / "file", "a save is not kept out")
        assert names(tmp_path / "out") == ["file"]
        in_child(claim, tmp_path / "out")

    def test_a_killed_run_claims_nothing(self, tmp_path):
        process = holder(tmp_path)
        with pytest.raises(BlockingIOError):
            claim(tmp_path)
        os.kill(process, signal.SIGKILL)
        wait(process)
        assert names(tmp_path) == [locks.CLAIM]
        claim(tmp_path)
        assert names(tmp_path) == []

    def test_what_a_killed_run_left_goes_with_the_next_save(self, tmp_path):
        process = holder(tmp_path)
        write_text(tmp_path / "file", "")
        assert names(tmp_path) == [locks.CLAIM, "file"]
        os.kill(process, signal.SIGKILL)
        wait(process)
        write_text(tmp_path / "file", "")
        assert names(tmp_path) == ["file"]

    def test_a_child_that_lives_on_keeps_nothing_locked(self, tmp_path):
        process = holder(tmp_path, with_child=True)
        os.kill(process, signal.SIGKILL)
        wait(process)
        claim(tmp_path)

    def test_an_empty_folder_goes_again(self, tmp_path):
        claim(tmp_path / "a" / "b")
        assert names(tmp_path) == []


@forks
def test_saves_wait_for_each_other(tmp_path):
    order = []

    def second():
        with locked(tmp_path) as is_alone:
            order.append(("second", is_alone))

    with locked(tmp_path) as is_alone:
        assert is_alone
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append(("first", True))
    thread.join()
    assert order == [("first", True), ("second", True)]


def test_a_save_that_waits_too_long_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.02)
    with locked(tmp_path), pytest.raises(OSError, match="another process has been saving to it"):
        write_text(tmp_path / "file", "")
    assert names(tmp_path) == []


def test_without_locks_everything_else_works(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", None)
    monkeypatch.setattr("lora_np.storage.saving.fcntl", None)
    with claimed(tmp_path):
        write_text(tmp_path / "file", "new")
    with locked(tmp_path) as is_alone:
        assert not is_alone
    assert names(tmp_path) == ["file"]


def test_a_module_without_locks_is_none(tmp_path):
    """JupyterLite puts an empty `fcntl` where there is none."""
    code = """
import sys, types
sys.modules["fcntl"] = types.ModuleType("fcntl")
from lora_np.storage import claimed, locks, read_json, write_json
assert locks.fcntl is None
with claimed("folder"):
    write_json("folder/a.json", {"a": 1})
assert read_json("folder/a.json") == {"a": 1}
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.json"]
