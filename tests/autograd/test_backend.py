"""The backend: which library an array belongs to, devices, random numbers, and what an import costs."""

import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from lora_np import manual_seed
from lora_np.autograd import backend, ops


def test_library_of_an_array(xp):
    x = xp.ones(3, xp.float32)
    assert backend.array_module(x) is xp
    assert backend.is_array(x)
    assert backend.is_array(x.sum())
    assert backend.is_float(x)
    assert not backend.is_float(xp.arange(3))
    assert not backend.is_float(xp.ones(3, bool))
    assert backend.device_of(x) == ("cpu" if xp is np else "cuda:0")


def test_another_library_can_be_registered(monkeypatch):
    class Array:
        dtype = np.dtype(np.float32)

    monkeypatch.setattr(backend, "_libraries", dict(backend._libraries))
    x, library = Array(), types.SimpleNamespace(__name__="library", some_blocks=lambda slices: slices[:1])
    assert not backend.is_array(x)
    backend.register_arrays(Array, library)
    assert backend.array_module(x) is library
    assert backend.is_array(x)
    assert not backend.on_gpu(x)
    assert backend.device_of(x) == "cpu"
    assert backend.to_numpy(x) is backend.to_device(x, "cpu") is x
    assert backend.array_module(np.ones(3)) is np
    assert backend.blocks(10, 1 << 18, library) == backend.blocks(10, 1 << 18, np)[:1] == [slice(0, 2)]


@pytest.mark.parametrize("x", [1.0, 2, [1.0], None, "cpu", np])
def test_what_is_no_array(x):
    assert not backend.is_array(x)
    assert backend.array_module(x) is np


def test_to_numpy_and_back(xp):
    x = xp.arange(6.0).reshape(2, 3)
    there = backend.to_numpy(x)
    assert isinstance(there, np.ndarray)
    np.testing.assert_array_equal(there, [[0, 1, 2], [3, 4, 5]])
    assert backend.to_device(x, backend.device_of(x)) is x
    assert isinstance(backend.to_device(x, "cpu"), np.ndarray)


@pytest.mark.parametrize(("device", "index"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:11", 11)])
def test_parse_device(device, index):
    assert backend.parse_device(device) == index


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:x", "cuda:-1", "cuda:1:2", "cuda:", "cpu:0", "", None, 0])
def test_parse_device_names_what_it_does_not_know(device):
    with pytest.raises(ValueError, match="unknown device") as caught:
        backend.parse_device(device)
    assert repr(device) in str(caught.value)
    assert "'cuda:N'" in str(caught.value)


def test_cuda_without_cupy_is_one_clear_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes `import cupy` fail
    with pytest.raises(RuntimeError, match="device 'cuda' needs CuPy, which is not installed") as caught:
        backend.to_device(np.ones(2), "cuda")
    message = str(caught.value)
    assert "pip install" in message
    assert "device='cpu'" in message
    assert "\n" not in message


class FakeCuPy(types.ModuleType):
    """As much of CuPy as the backend asks about, on a machine whose GPUs number `count` (None: no driver)."""

    class ndarray:  # noqa: N801
        device = types.SimpleNamespace(id=3)

    def __init__(self, count):
        super().__init__("cupy")

        class CUDARuntimeError(RuntimeError):
            pass

        def get_device_count():
            if count is None:
                raise CUDARuntimeError("cudaErrorInsufficientDriver")
            return count

        runtime = types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=get_device_count)
        self.cuda = types.SimpleNamespace(runtime=runtime)


@pytest.mark.parametrize(("count", "reason"), [(None, "cudaErrorInsufficientDriver"), (0, "no GPU")])
def test_cuda_with_cupy_but_no_gpu(monkeypatch, count, reason):
    monkeypatch.setitem(sys.modules, "cupy", FakeCuPy(count))
    with pytest.raises(RuntimeError, match=reason) as caught:
        backend.to_device(np.ones(2), "cuda:1")
    assert "device='cpu'" in str(caught.value)


@pytest.mark.parametrize("operation", [ops.add, ops.sub, ops.mul, ops.div, ops.matmul])
def test_arrays_in_two_places_are_refused(monkeypatch, operation):
    fake = FakeCuPy(1)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    there = fake.ndarray()
    there.ndim, there.shape = 2, (2, 2)
    with pytest.raises(ValueError, match=r"one input is on cpu, the other on cuda:3"):
        operation(np.ones((2, 2)), there)


@pytest.mark.parametrize("seed", [0, 7, (7, 0), (7, 1), 2**63])
def test_manual_seed_starts_the_same_numbers_again(xp, seed):
    def draw():
        manual_seed(seed)
        return [backend.to_numpy(backend.generator(xp).random(5)) for _ in range(2)]

    first, second = draw(), draw()
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).all()


def test_different_seeds_differ(xp):
    seeds = [0, 1, (0, 1), (1, 1), (1, 2), (2, 1)]
    drawn = set()
    for seed in seeds:
        manual_seed(seed)
        drawn.add(float(backend.generator(xp).random(1)[0]))
    assert len(drawn) == len(seeds)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), ("one", TypeError), (1.5, TypeError)])
def test_a_bad_seed_is_refused_and_changes_nothing(seed, error):
    manual_seed(3)
    expected = backend.generator().random(4)
    manual_seed(3)
    with pytest.raises(error):
        manual_seed(seed)
    np.testing.assert_array_equal(backend.generator().random(4), expected)


def test_each_thread_has_its_own_random_numbers():
    manual_seed(5)
    expected = backend.generator().random(4)
    manual_seed(5)

    def other():
        manual_seed(6)
        backend.generator().random(100)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(backend.generator().random(4), expected)


@examples
@given(st.integers(0, 300), st.integers(0, 40), st.integers(1, 400))
def test_blocks_cover_a_range_in_order(length, row_bytes, cache_bytes):
    slices = backend.blocks(length, row_bytes, np, cache_bytes)
    assert [i for s in slices for i in range(length)[s]] == list(range(length))
    for s in slices:
        assert s.stop - s.start == 1 or (s.stop - s.start) * row_bytes <= cache_bytes


def test_a_gpu_gets_one_block():
    assert backend.blocks(1000, 1 << 20, FakeCuPy(1)) == [slice(0, 1000)]


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@pytest.mark.parametrize(("largest", "agrees"), [(2**40, True), (2**25, True), (2**20, False)])
def test_keep_freed_memory_asks_glibc(monkeypatch, largest, agrees):
    """`largest`: the greatest M_MMAP_THRESHOLD that this C library takes."""
    taken = {}

    def mallopt(option, value):
        assert 0 < value < 2**31  # a C int
        if option == M_MMAP_THRESHOLD and value > largest:
            return 0
        taken[option] = value
        return 1

    monkeypatch.setattr(backend.ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=mallopt))
    assert backend.keep_freed_memory() is agrees
    if agrees:
        assert 2**25 <= taken[M_MMAP_THRESHOLD] <= largest
        assert taken[M_TRIM_THRESHOLD] >= 2**30


def test_keep_freed_memory_elsewhere_does_nothing(monkeypatch):
    monkeypatch.setattr(backend.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    assert backend.keep_freed_memory() is False


def test_import_loads_no_heavy_library():
    code = "import sys, lora_np; print([m for m in ('cupy', 'torch', 'scipy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_device_has_a_name_for_people():
    assert backend.device_name("cpu").endswith("CPU cores")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        backend.device_name("tpu")


def test_moments_of_the_cpu():
    start = backend.moment("cpu")
    time.sleep(0.01)
    backend.synchronize("cpu")
    assert 0.01 <= backend.seconds_between(start, backend.moment("cpu")) < 5


def test_no_gpu_where_cupy_is_missing_or_finds_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not backend.gpu_available()


@pytest.mark.gpu
def test_moments_of_a_gpu_measure_its_work():
    import cupy

    assert backend.gpu_available()
    x = cupy.ones((4096, 4096), np.float32)
    start = backend.moment("cuda")
    for _ in range(20):
        x = x @ x
    end = backend.moment("cuda")
    taken = backend.seconds_between(start, end)
    assert taken > 20 * 2 * 4096**3 / 1e16
    assert 0 <= backend.seconds_between(end, backend.moment("cuda:0")) < taken
    backend.synchronize("cuda")
