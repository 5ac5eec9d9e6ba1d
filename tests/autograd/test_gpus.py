"""What is asked about GPUs, with and without one."""

import multiprocessing
import sys
import time
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

import lora_np
from lora_np.autograd import gpus


def test_without_cupy_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not gpus.is_available()
    assert gpus.device_count() == 0
    assert not gpus.is_bf16_supported()
    gpus.empty_cache()
    gpus.synchronize()


def test_it_is_found_where_torch_has_it():
    assert lora_np.cuda is gpus
    assert lora_np.cuda.is_available() == (lora_np.cuda.device_count() > 0)


@pytest.mark.gpu
def test_with_one():
    assert gpus.is_available()
    gpus.synchronize()
    gpus.empty_cache()


def meeting(monkeypatch, outcome):
    """`cupyx.distributed` whose groups are made as CuPy's: by a process that ends when it is told to."""

    def init_process_group(size, rank, host, port):
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
        return outcome(size, rank, host, port)

    distributed = ModuleType("cupyx.distributed")
    distributed.init_process_group = init_process_group
    cupyx = ModuleType("cupyx")
    cupyx.distributed = distributed
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    monkeypatch.setitem(sys.modules, "cupyx.distributed", distributed)
    used = []
    device = SimpleNamespace(Device=lambda index: SimpleNamespace(use=lambda: used.append(index)))
    monkeypatch.setattr(gpus, "load_cupy", lambda: SimpleNamespace(cuda=device))
    return used


@contextmanager
def leaves_no_process():
    """Python waits for its processes when it ends. They are ended here too, so that a test that fails ends."""
    before = multiprocessing.active_children()
    yield
    left = set(multiprocessing.active_children()) - set(before)
    for process in left:
        process.kill()
    assert not left


def test_processes_that_are_connected_need_not_wait_for_the_one_that_connected_them(monkeypatch):
    used = meeting(monkeypatch, lambda *given: given)
    with leaves_no_process():
        assert gpus.connected(1, 2, 1234) == (2, 1, "127.0.0.1", 1234)
    assert used == [1]


def test_nor_do_those_that_could_not_be_connected(monkeypatch):
    def refused(*given):
        raise RuntimeError("not available")

    meeting(monkeypatch, refused)
    with leaves_no_process(), pytest.raises(RuntimeError, match="not available"):
        gpus.connected(0, 2, 1234)
