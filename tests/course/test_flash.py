"""The kernel of attention by tiles, against the plain formula in float64: on a GPU, and its text on a CPU."""

import contextlib
import ctypes
import functools
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from lora_course import flash
from lora_np import nn
from lora_np.autograd.fused import reference

HERE = Path(__file__).parent
LAST_BIT = 2.0**-8  # half a unit in the last place of a bfloat16, relative
STARTS = """
#define START(kernel, ...)      \\
    late_copies = late;         \\
    launch({x, y, z}, threads, [=] { kernel(__VA_ARGS__, T, H, scale, causal); })
extern "C" void start_flash_forward(bool late, unsigned x, unsigned y, unsigned z, int threads, real* q, real* k,
                                    real* v, real* out, float* L, int T, int H, float scale, bool causal) {
    START(flash_forward, q, k, v, out, L);
}
extern "C" void start_flash_queries(bool late, unsigned x, unsigned y, unsigned z, int threads, real* q, real* k,
                                    real* v, real* out, real* dout, float* L, float* delta, real* dq, int T, int H,
                                    float scale, bool causal) {
    START(flash_queries, q, k, v, out, dout, L, delta, dq);
}
extern "C" void start_flash_keys(bool late, unsigned x, unsigned y, unsigned z, int threads, real* q, real* k, real* v,
                                 real* dout, float* L, float* delta, real* dk, real* dv, int T, int H, float scale,
                                 bool causal) {
    START(flash_keys, q, k, v, dout, L, delta, dk, dv);
}
"""


def drawn(*shape):
    """q, k, v, dO (B, T, H, D) in bfloat16. Scores are large, so that softmax has to look for the maximum."""
    numbers = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    numbers[0] *= 4
    return [x.astype(nn.float_type("bfloat16")) for x in numbers]


def expected(q, k, v, dout, causal):
    """L (B, H, T), and O, dQ, dK, dV of the plain formula in float64, (B, T, H, D)."""
    q, k, v, dout = (x.astype(np.float64).swapaxes(1, 2) for x in (q, k, v, dout))
    out, cache = reference.attention_forward(q, k, v, causal)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(q.shape[2], dtype=bool) | (not causal), scores, -np.inf)
    log_sum = np.logaddexp.reduce(scores, axis=-1)
    return log_sum, [x.swapaxes(1, 2) for x in (out, *reference.attention_backward(dout, cache))]


def assert_near(found, right, allowed):
    """Off by at most so much of the largest number, or of 0.1 where all should be zero."""
    found = np.asarray(found, np.float64)
    assert found.shape == right.shape
    assert np.abs(found - right).max() <= allowed * max(0.1, np.abs(right).max())


def check(arrays, causal, to=np.asarray, back=np.asarray):
    """O and L, dQ, dK, dV of arrays brought `to` the device, against the plain formula: off by a few last bits."""
    q, k, v, dout = map(to, arrays)
    out, log_sum = flash.attention(q, k, v, causal)
    gradients = flash.attention_backward(dout, q, k, v, out, log_sum, causal)
    right_sum, right = expected(*arrays, causal)
    assert_near(back(log_sum), right_sum, 1e-5)
    for x, y in zip((out, *gradients), right, strict=True):
        assert_near(back(x), y, 4 * LAST_BIT)


# ---- On a CPU: CuPy is pretended, and its compiler is g++ ----


class Device(contextlib.nullcontext):
    id, compute_capability = 0, "90"


class Array(np.ndarray):
    """NumPy's array, with what CuPy's says of itself."""

    device = Device()

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    @classmethod
    def of(cls, array):
        return np.array(array).view(cls)


class PretendedCupy:
    """What flash.py calls of CuPy. New arrays are full of NaN. late: copies to shared memory are done late."""

    __version__ = "14.2.0"
    cuda = types.SimpleNamespace(Device=lambda number=0: Device())

    def __init__(self, folder, late):
        self.folder, self.late = folder, late

    def empty(self, shape, dtype):
        return Array.of(np.full(shape, np.nan, dtype))

    def empty_like(self, x):
        return self.empty(x.shape, x.dtype)

    def RawModule(self, code, options):
        library = compiled(code, [option for option in options if option.startswith("-D")], self.folder)
        return types.SimpleNamespace(get_function=lambda name: functools.partial(self._start, library, name))

    def _start(self, library, name, grid, block, arguments):
        kinds = {np.int32: ctypes.c_int, np.float32: ctypes.c_float, np.bool_: ctypes.c_bool}
        given = [
            ctypes.c_void_p(x.ctypes.data) if isinstance(x, Array) else kinds[type(x)](x.item()) for x in arguments
        ]
        library[f"start_{name}"](ctypes.c_bool(self.late), *grid, *block, *given)


def compiled(code, options, folder):
    """The text of the kernels for this computer's processor."""
    before, _, rest = code.replace("#include <cuda_bf16.h>", text_of("cuda_on_cpu.h")).partition("// ---- The instr")
    code = "\n".join([before, text_of("instructions_on_cpu.h"), rest[rest.index("// ---- Blocks") :], STARTS])
    source = folder / "flash.cpp"
    if not source.is_file():
        source.write_text(code, encoding="utf-8")
        build = ["g++", "-O1", "-std=c++17", "-w", "-fno-strict-aliasing", "-fPIC", "-shared", *options]
        subprocess.run([*build, source, "-o", source.with_suffix(".so")], check=True)
    return ctypes.CDLL(str(source.with_suffix(".so")))


def text_of(name):
    return (HERE / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")  # for heads of 32 channels


@pytest.fixture(params=[False, True], ids=["copies at once", "late copies"])
def pretended(request, monkeypatch, folder):
    """flash.py on a CPU."""
    if shutil.which("g++") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs g++ and Linux")
    monkeypatch.setattr(flash, "load_cupy", lambda: PretendedCupy(folder, request.param))
    flash._module.cache_clear()
    yield
    flash._module.cache_clear()


def test_the_kernels_text_is_attention(pretended):
    assert flash.supported()
    for B, T, H, causal in ((1, 1, 1, True), (2, 17, 2, True), (1, 131, 1, True), (1, 70, 1, False)):
        check(drawn(B, T, H, 32), causal, Array.of)


def views_agree(to):
    q, k, v, _ = map(to, drawn(2, 40, 2, 32))
    right = flash.attention(q, k, v)[0].tobytes()
    apart = [x.swapaxes(1, 2).copy().swapaxes(1, 2) for x in (q, k, v)]
    shifted = [to(np.zeros(x.size + 1, x.dtype))[1:].reshape(x.shape) for x in (q, k, v)]
    for x, y in zip(shifted, (q, k, v), strict=True):
        x[...] = y
    assert flash.attention(*apart)[0].tobytes() == right
    assert flash.attention(*shifted)[0].tobytes() == right


def others_are_refused(to):
    q, k, v, _ = map(to, drawn(1, 5, 2, 24))
    with pytest.raises(ValueError, match=r"heads of 16, 32, \.\.\. 128 channels, got 24"):
        flash.attention(q, k, v)
    q = to(np.zeros((1, 5, 2, 32), np.float32))
    with pytest.raises(ValueError, match=r"in bfloat16, got \(1, 5, 2, 32\) in float32"):
        flash.attention(q, q, q)
    q = to(np.zeros((1, 5, 2, 32), k.dtype))
    with pytest.raises(ValueError, match="one shape and type"):
        flash.attention(q, q[:, :3], q)
    with pytest.raises(ValueError, match="expected L of the forward pass"):
        flash.attention_backward(q, q, q, q, q, to(np.zeros((1, 5, 2), np.float32)))


def test_views_are_read_as_what_they_are(pretended):
    views_agree(Array.of)


def test_other_arrays_are_refused(pretended):
    others_are_refused(Array.of)


def test_each_kernels_text_can_be_had():
    for name in ("flash_forward", "flash_queries", "flash_keys"):
        text = flash.source(name)
        assert text.startswith(f'extern "C" __global__ void __launch_bounds__(THREADS)\n{name}(')
        assert text.endswith("\n}\n")
        assert text.count("extern") == 1


@pytest.mark.parametrize(("version", "capability"), [("14.2.0", "75"), ("13.6.0", "90")])
def test_old_gpus_and_old_versions_of_cupy_are_known(monkeypatch, version, capability):
    device = types.SimpleNamespace(compute_capability=capability)
    pretended = types.SimpleNamespace(__version__=version, cuda=types.SimpleNamespace(Device=lambda number=0: device))
    monkeypatch.setattr(flash, "load_cupy", lambda: pretended)
    assert not flash.supported()
    if capability == "75":
        with pytest.raises(RuntimeError, match=r"compute capability 8\.0 or newer, this one has 7\.5"):
            flash._module(16, 0)


def test_without_a_gpu_it_is_not_supported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not flash.supported()


# ---- On a GPU ----


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 63, 65, 300, 515])
@pytest.mark.parametrize("D", [16, 64, 80, 128])
def test_the_kernel_is_attention(D, T, causal):
    import cupy

    assert flash.supported()
    check(drawn(2, T, 3, D), causal, cupy.asarray, cupy.asnumpy)


@pytest.mark.gpu
def test_the_gradients_are_the_same_each_time():
    import cupy

    q, k, v, dout = map(cupy.asarray, drawn(2, 1000, 4, 64))
    out, log_sum = flash.attention(q, k, v)
    first, second = (flash.attention_backward(dout, q, k, v, out, log_sum) for _ in range(2))
    for x, y in zip(first, second, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("tested", [views_agree, others_are_refused])
def test_arrays_of_a_gpu(tested):
    import cupy

    tested(cupy.asarray)
