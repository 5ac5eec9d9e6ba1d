"""The kernel of attention by tiles, against the plain formula in float64: on a GPU, and its text on a CPU."""

import ctypes
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
CALLS = """
#define START(name, ...) \\
    launch({unsigned(T + OWN - 1) / OWN, unsigned(H), unsigned(B)}, THREADS, \\
           [=] { name(__VA_ARGS__, T, H, scale, causal); })
extern "C" void forward(real* q, real* k, real* v, real* out, float* L, int B, int T, int H, float scale, bool causal,
                        bool late) {
    late_copies = late;
    START(flash_forward, q, k, v, out, L);
}
extern "C" void backward(real* dout, real* q, real* k, real* v, real* out, float* L, float* delta, real* dq, real* dk,
                         real* dv, int B, int T, int H, float scale, bool causal, bool late) {
    late_copies = late;
    START(flash_queries, q, k, v, out, dout, L, delta, dq);
    START(flash_keys, q, k, v, dout, L, delta, dk, dv);
}
"""


def drawn(*shape):
    """q, k, v, dO (B, T, H, D) in bfloat16. Scores are large, so that softmax has to look for the maximum."""
    numbers = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    numbers[0] *= 4
    return [x.astype(nn.float_type("bfloat16")) for x in numbers]


def expected(q, k, v, dout, causal):
    """O, dQ, dK, dV of the plain formula in float64, (B, T, H, D), and L (B, H, T)."""
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


def check(found, log_sum, arrays, causal):
    """O and L, dQ, dK, dV against the plain formula: off by a few units in the last place."""
    right_sum, right = expected(*arrays, causal)
    assert_near(log_sum, right_sum, 1e-5)
    for x, y in zip(found, right, strict=True):
        assert_near(x, y, 4 * LAST_BIT)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """The kernels for heads of 32 channels, compiled for this computer's processor."""
    if shutil.which("g++") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs g++ and Linux")
    text = flash.source().replace("#include <cuda_bf16.h>", (HERE / "cuda_on_cpu.h").read_text(encoding="utf-8"))
    before, _, rest = text.partition("// ---- The instructions")
    after = rest[rest.index("// ---- Blocks") :]
    text = "\n".join([before, (HERE / "instructions_on_cpu.h").read_text(encoding="utf-8"), after, CALLS])
    source = tmp_path_factory.mktemp("kernels") / "flash.cpp"
    source.write_text(text, encoding="utf-8")
    library = source.with_suffix(".so")
    options = ["-O1", "-std=c++17", "-w", "-fno-strict-aliasing", "-fPIC", "-shared", "-DHEAD_SIZE=32", "-DWARPS=4"]
    subprocess.run(["g++", *options, source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def call(function, arrays, causal, late):
    B, T, H, D = arrays[0].shape
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in arrays]
    function(*pointers, B, T, H, ctypes.c_float(D**-0.5), ctypes.c_bool(causal), ctypes.c_bool(late))


@pytest.mark.parametrize("late", [False, True], ids=["copies at once", "late copies"])
def test_the_kernels_text_is_attention(on_cpu, late):
    for T, causal in ((1, True), (70, True), (131, True), (70, False)):
        q, k, v, dout = arrays = drawn(1, T, 2, 32)
        out, dq, dk, dv = (np.full_like(q, np.nan) for _ in range(4))
        log_sum, delta = np.full((2, 1, 2, T), np.nan, np.float32)
        call(on_cpu.forward, (q, k, v, out, log_sum), causal, late)
        call(on_cpu.backward, (dout, q, k, v, out, log_sum, delta, dq, dk, dv), causal, late)
        check((out, dq, dk, dv), log_sum, arrays, causal)


def test_each_kernels_text_can_be_had():
    for name in ("flash_forward", "flash_queries", "flash_keys"):
        text = flash.source(name)
        assert text.startswith(f'extern "C" __global__ void __launch_bounds__(THREADS)\n{name}(')
        assert text.endswith("\n}\n")
        assert text.count("extern") == 1


@pytest.mark.parametrize(
    ("version", "capability", "expected"), [("14.2.0", "90", True), ("14.2.0", "75", False), ("13.6.0", "90", False)]
)
def test_old_gpus_and_old_versions_of_cupy_are_known(monkeypatch, version, capability, expected):
    device = types.SimpleNamespace(compute_capability=capability)
    pretended = types.SimpleNamespace(__version__=version, cuda=types.SimpleNamespace(Device=lambda number=0: device))
    monkeypatch.setattr(flash, "load_cupy", lambda: pretended)
    assert flash.supported() is expected
    if capability == "75":
        with pytest.raises(RuntimeError, match=r"compute capability 8\.0 or newer, this one has 7\.5"):
            flash._module(16, 0)


def test_without_a_gpu_it_is_not_supported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not flash.supported()


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 63, 65, 300, 515])
@pytest.mark.parametrize("D", [16, 64, 80, 128])
def test_the_kernel_is_attention(D, T, causal):
    import cupy

    arrays = drawn(2, T, 3, D)
    q, k, v, dout = map(cupy.asarray, arrays)
    out, log_sum = flash.attention(q, k, v, causal)
    gradients = flash.attention_backward(dout, q, k, v, out, log_sum, causal)
    check([x.get() for x in (out, *gradients)], log_sum.get(), arrays, causal)


@pytest.mark.gpu
def test_the_gradients_are_the_same_each_time():
    import cupy

    q, k, v, dout = map(cupy.asarray, drawn(2, 1000, 4, 64))
    out, log_sum = flash.attention(q, k, v)
    first, second = (flash.attention_backward(dout, q, k, v, out, log_sum) for _ in range(2))
    for x, y in zip(first, second, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.gpu
def test_other_arrays_are_refused():
    import cupy

    q, k, v, _ = map(cupy.asarray, drawn(1, 5, 2, 24))
    with pytest.raises(ValueError, match=r"heads of 16, 32, \.\.\. 128 channels, got 24"):
        flash.attention(q, k, v)
    q = cupy.zeros((1, 5, 2, 16), np.float32)
    with pytest.raises(ValueError, match=r"in bfloat16, got \(1, 5, 2, 16\) in float32"):
        flash.attention(q, q, q)
    q = q.astype(k.dtype)
    with pytest.raises(ValueError, match="one shape and type"):
        flash.attention(q, q[:, :3], q)
    with pytest.raises(ValueError, match="expected L of the forward pass"):
        flash.attention_backward(q, q, q, q, q, cupy.zeros((1, 5, 2), np.float32))


@pytest.mark.gpu
def test_views_are_read_as_what_they_are():
    import cupy

    packed = cupy.stack([cupy.asarray(x) for x in drawn(2, 40, 2, 16)[:3]], axis=2)
    views = [packed[:, :, i] for i in range(3)]  # of (B, T, 3, H, D)
    shifted = [cupy.concatenate([x.ravel()[:1], x.ravel()])[1:].reshape(x.shape) for x in views]
    right = flash.attention(*(x.copy() for x in views))[0].tobytes()
    assert flash.attention(*views)[0].tobytes() == right
    assert flash.attention(*shifted)[0].tobytes() == right
