"""The bookkeeping of recordings, with a CuPy that does nothing: what is sent again, and which masks are drawn."""

import importlib.util
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import lora_np.autograd
from lora_np import manual_seed
from lora_np.autograd import random

SOURCE = Path(lora_np.autograd.__file__).parent / "cuda" / "record.py"


class Stream:
    """launches   how often its recorded work was started; a start that is `interrupted` is none"""

    def __init__(self):
        self.launches, self.interrupted = 0, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin_capture(self):
        pass

    def end_capture(self):
        return types.SimpleNamespace(launch=lambda stream: stream.launch())

    def launch(self):
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        self.launches += 1


class Pool:
    def __init__(self, allocator=None):
        self.malloc = allocator

    def free_all_blocks(self):
        pass


@pytest.fixture
def record(monkeypatch):
    """The module record.py with arrays of NumPy's."""
    cuda = types.SimpleNamespace(Stream=Stream, MemoryPool=Pool, using_allocator=lambda malloc: nullcontext())
    cuda.runtime = types.SimpleNamespace(CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}))
    cupy = types.ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {})
    cupy.cuda, cupy.empty, cupy.asarray, cupy.get_default_memory_pool = cuda, np.empty, np.asarray, Pool
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    spec = importlib.util.spec_from_file_location("lora_np.autograd.cuda.record", SOURCE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda", types.ModuleType("lora_np.autograd.cuda"))
    spec.loader.exec_module(module)
    return module


class Step:
    """Work that counts its times on the host, as AdamW does, and draws two masks.

    sees()   (the count that was sent, the number of the first mask that was)
    """

    def __init__(self, record):
        self.record, self.times = record, 0

    def __call__(self):
        self.settings = self.record.upload(self.next(), refresh=self.next)
        for _ in range(2):
            random.next_masks()
            self.place, _ = self.record.place_in_recording()

    def next(self):
        self.times += 1
        return np.array([self.times])

    def sees(self):
        return self.settings.tolist(), int(self.place[1])


def test_what_the_host_counts_is_sent_before_each_replay(record):
    manual_seed(0)
    random.next_masks(5)
    step, recording = Step(record), record.Recording()
    recording.record(step)
    seen = [step.sees()]
    for _ in range(2):
        random.next_masks()  # by something else in between
        recording.replay()
        seen.append(step.sees())
    assert seen == [([1], 5), ([2], 8), ([3], 11)]
    assert random.masks_drawn() == 13
    assert recording.room.stream.launches == 3


def test_after_an_error_the_masks_are_those_that_were_not_drawn(record):
    manual_seed(0)

    def failing():
        step()
        raise RuntimeError("cannot be recorded")

    step, recording = Step(record), record.Recording()
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        recording.record(failing)
    assert random.masks_drawn() == 0
    assert record.place_in_recording() is None
    recording.record(step)
    assert step.sees() == ([2], 0)


def test_one_that_is_interrupted_while_it_is_started_is_made_anew(record):
    """Nothing of the first is sent again: the host would count twice."""
    manual_seed(0)
    step, recording = Step(record), record.Recording()
    recording.room.stream.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        recording.record(step)
    recording.record(step)
    assert step.sees() == ([2], 2)
    recording.replay()
    assert step.sees() == ([3], 4)
    assert random.masks_drawn() == 6
