"""Which library an array belongs to, devices, and what an import costs."""

import subprocess
import sys
import types

import numpy as np
import pytest

from lora_np.autograd import Tensor, devices, ops, shape_ops, tensor


def test_library_of_an_array(xp):
    x = xp.ones(3, xp.float32)
    assert devices.array_module(x) is xp
    assert devices.is_array(x)
    assert devices.is_array(x.sum())
    assert devices.is_float(x)
    assert not devices.is_float(xp.arange(3))
    assert not devices.is_float(xp.ones(3, bool))
    assert devices.device_of(x) == ("cpu" if xp is np else "cuda:0")


@pytest.mark.parametrize("x", [1.0, 2, [1.0], None, "cpu", np])
def test_what_is_no_array(x):
    assert not devices.is_array(x)
    assert devices.array_module(x) is np


def test_to_numpy_and_back(xp):
    x = xp.arange(6.0).reshape(2, 3)
    there = devices.to_numpy(x)
    assert isinstance(there, np.ndarray)
    np.testing.assert_array_equal(there, [[0, 1, 2], [3, 4, 5]])
    assert devices.to_device(x, devices.device_of(x)) is x
    assert isinstance(devices.to_device(x, "cpu"), np.ndarray)


@pytest.mark.parametrize(("device", "index"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:11", 11)])
def test_parse_device(device, index):
    assert devices.parse_device(device) == index


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:x", "cuda:-1", "cuda:1:2", "cuda:", "cpu:0", "", None, 0])
def test_parse_device_names_what_it_does_not_know(device):
    with pytest.raises(ValueError, match="unknown device") as caught:
        devices.parse_device(device)
    assert repr(device) in str(caught.value)
    assert "'cuda:N'" in str(caught.value)


def test_cuda_without_cupy_is_one_clear_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes `import cupy` fail
    with pytest.raises(RuntimeError, match="device 'cuda' needs CuPy, which is not installed") as caught:
        devices.to_device(np.ones(2), "cuda")
    message = str(caught.value)
    assert "pip install" in message
    assert "device='cpu'" in message
    assert "\n" not in message


class FakeCuPy(types.ModuleType):
    """As much of CuPy as these functions ask about, on a machine whose GPUs number `count` (None: no driver)."""

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
        devices.to_device(np.ones(2), "cuda:1")
    assert "device='cpu'" in str(caught.value)


@pytest.mark.parametrize("operation", [ops.add, ops.sub, ops.mul, ops.div, ops.matmul])
def test_arrays_in_two_places_are_refused(monkeypatch, operation):
    fake = FakeCuPy(1)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    there = fake.ndarray()
    there.ndim, there.shape = 2, (2, 2)
    with pytest.raises(ValueError, match=r"one input is on cpu, the other on cuda:3"):
        operation(np.ones((2, 2)), there)


def test_import_loads_no_heavy_library():
    code = "import sys, lora_np; print([m for m in ('cupy', 'torch', 'scipy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Shape(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of another library: a shape and a dtype, no numbers."""

    def __init__(self, shape, dtype="float32"):
        self.shape, self.dtype = shape, np.dtype(dtype)

    ndim, size = property(lambda self: len(self.shape)), property(lambda self: int(np.prod(self.shape)))

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return Shape(np.broadcast_shapes(*(np.shape(x) for x in inputs)), self.dtype)

    def reshape(self, *shape):
        return Shape(shape)


@pytest.fixture
def shapes(monkeypatch):
    """The library that makes `Shape`s, while it is registered."""
    library = types.ModuleType("shapes")
    monkeypatch.setattr(devices, "LIBRARIES", devices.LIBRARIES.copy())
    monkeypatch.setattr(tensor, "LIBRARIES", devices.LIBRARIES)
    devices.register_arrays(Shape, library)
    return library


def test_another_library_can_be_added(shapes):
    x = Shape((2, 3))
    assert devices.is_array(x)
    assert devices.array_module(x) is shapes
    assert not devices.on_gpu(x)
    assert devices.device_of(x) == "cpu"
    assert devices.to_device(x, "cpu") is devices.to_numpy(x) is x
    assert devices.beside(x, np.ones(2)) is x
    assert devices.host_can_read(x)
    y = Tensor(x, requires_grad=True)
    assert y.data is x
    assert (y.shape, y.ndim, y.size, y.dtype, y.device) == ((2, 3), 2, 6, np.float32, "cpu")


def test_arrays_of_another_library_go_with_numpys(shapes):
    x = Tensor(Shape((2, 1)), requires_grad=True)
    for y in (x + 1.0, x + np.ones(3, np.float32), x * np.ones(3, np.float32), 2 / x, shape_ops.reshape(x, 1, 2)):
        assert isinstance(y.data, Shape)
        assert y.requires_grad
    assert (x + np.ones(3, np.float32)).shape == (2, 3)


def test_what_is_not_registered_is_no_array():
    assert not devices.is_array(Shape((2, 3)))
    with pytest.raises(TypeError, match="a Tensor holds floats, integers or booleans, not object"):
        Tensor(Shape((2, 3)))


@pytest.mark.parametrize("values", [[1.0, 2.0], (1, 2), 3.5, True])
def test_what_is_no_array_becomes_one(values):
    found = devices.as_array(values)
    assert isinstance(found, np.ndarray)
    assert found.dtype == {"f": np.float32, "i": np.int64, "b": bool}[np.asarray(values).dtype.kind]
    assert devices.as_array(found) is found


def test_an_array_goes_where_another_is(xp):
    x = np.arange(3)
    moved = devices.beside(x, xp.ones(2))
    assert isinstance(moved, xp.ndarray)
    np.testing.assert_array_equal(devices.to_numpy(moved), x)
    assert isinstance(devices.beside(moved, x), np.ndarray)


def test_the_host_reads_what_is_on_the_host(xp):
    assert devices.host_can_read(np.ones(2))
    assert devices.host_can_read(xp.ones(2))  # nothing is being recorded


@pytest.mark.gpu
def test_the_host_cannot_read_while_work_is_being_recorded():
    import cupy

    from lora_np.autograd.cuda.record import Recording

    x, seen = cupy.ones(3), []

    def work():
        seen.append((devices.host_can_read(x), devices.host_can_read(np.ones(2))))
        return x + devices.to_device(np.arange(3.0), "cuda")

    recording = Recording()
    with recording.inside():
        work()
    result = recording.record(work)
    assert seen == [(True, True), (False, True)]
    np.testing.assert_array_equal(result.get(), [1, 2, 3])
    x += 1
    recording.replay()
    np.testing.assert_array_equal(result.get(), [2, 3, 4])  # what the host had sent is still there


def test_bfloat16_needs_a_cupy_that_knows_it():
    kind = pytest.importorskip("ml_dtypes").bfloat16
    old, new = types.SimpleNamespace(__version__="14.1.3"), types.SimpleNamespace(__version__="14.2.0rc1")
    with pytest.raises(RuntimeError, match=r"bfloat16 on a GPU needs CuPy 14.2 or newer, this is 14.1.3"):
        devices.check_bfloat16(np.dtype(kind), old)
    devices.check_bfloat16(np.dtype(kind), new)
    devices.check_bfloat16(np.dtype(np.float32), old)


def test_a_full_gpu_says_what_was_asked_and_what_takes_less():
    full = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})
    said = r"full \(Out of memory allocating 12 bytes\): a smaller batch, .*4 bits"
    with pytest.raises(RuntimeError, match=said), devices.memory_advice():
        raise full("Out of memory allocating 12 bytes")
    with pytest.raises(MemoryError, match="of the host"), devices.memory_advice():
        raise MemoryError("of the host")
