"""NumPy or CuPy: the one place that chooses.

Everything above this file is written once. It asks `array_module(x)` for the library that made the array
`x` and calls that: the same line runs on a laptop and on an NVIDIA GPU. CuPy is imported only when
somebody asks for a GPU; a machine without one never needs it.
"""

import sys
from contextlib import contextmanager

import numpy as np

from .float_types import is_bfloat16, is_floating

FLOATS = (np.float16, np.float32, np.float64)
BFLOAT16_SINCE = (14, 2)  # the version of CuPy

LIBRARIES = {np.ndarray: np}  # {type of array: the library that makes it}; CuPy's is added when it is loaded


def register_arrays(kind, library):
    """Let the engine work on arrays of the type `kind` too, with `library` in the place of the module numpy.

    Such arrays have the attributes of NumPy's, `flags` and `base` included, and count as arrays on the CPU.
    """
    LIBRARIES[kind] = library


def array_module(x):
    """The library (the module numpy or cupy, or another of `LIBRARIES`) that made the array `x`."""
    return LIBRARIES.get(type(x)) or (sys.modules["cupy"] if on_gpu(x) else np)


def on_gpu(x):
    """Is `x` an array on a GPU, that is, CuPy's?"""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def is_array(x):
    """Is `x` an array of one of the libraries? NumPy's scalars (`np.float32(1)`) count as 0-d arrays."""
    return type(x) in LIBRARIES or isinstance(x, (np.ndarray, np.generic)) or on_gpu(x)


def as_array(x):
    """`x` itself if it is an array, else NumPy's of it; Python's floats become float32."""
    if is_array(x):
        return np.asarray(x) if isinstance(x, np.generic) else x
    array = np.asarray(x)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def is_float(x):
    """Does the array `x` hold floating-point numbers, so that a gradient makes sense?"""
    return is_floating(x.dtype)


def load_cupy():
    """Import CuPy and make sure that a GPU answers; say in one sentence what is missing if not."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "device 'cuda' needs CuPy, which is not installed: pip install -e '.[cuda12]' or '.[cuda13]' "
            "(the one that matches your CUDA version, never both), or use device='cpu'"
        ) from (None if error.name == "cupy" else error)
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"CuPy is installed but finds no usable GPU ({error}); use device='cpu'") from error
    if count == 0:
        raise RuntimeError("CuPy is installed but this machine has no GPU; use device='cpu'")
    register_arrays(cupy.ndarray, cupy)
    return cupy


def check_bfloat16(dtype, cupy):
    """RuntimeError if an array of this dtype needs a newer CuPy than this one."""
    if is_bfloat16(dtype) and tuple(map(int, cupy.__version__.split(".")[:2])) < BFLOAT16_SINCE:
        since, found = ".".join(map(str, BFLOAT16_SINCE)), cupy.__version__
        raise RuntimeError(f"bfloat16 on a GPU needs CuPy {since} or newer, this is {found}: update it, or use float32")


@contextmanager
def memory_advice():
    """Where the memory of a GPU runs out in this block, a RuntimeError says how much was asked for, and what helps."""
    try:
        yield
    except MemoryError as error:
        if not type(error).__module__.startswith("cupy"):
            raise
        raise RuntimeError(
            f"the GPU's memory is full ({error}): a smaller batch, model.gradient_checkpointing_enable(), "
            "dtype='bfloat16' or a base in 4 bits (nn.quantize_model) take less"
        ) from None


def parse_device(device):
    """'cpu' -> None; 'cuda' -> 0; 'cuda:1' -> 1. Anything else is a ValueError."""
    name, colon, index = str(device).partition(":")
    if device == "cpu":
        return None
    if name == "cuda" and (index.isdecimal() if colon else True):
        return int(index or 0)
    raise ValueError(f"unknown device {device!r}: expected 'cpu', 'cuda' or 'cuda:N'")


class Device(str):
    """'cpu', 'cuda' or 'cuda:N': a string, which also answers what torch's devices are asked. `Device("cuda", 1)`."""

    __slots__ = ()

    def __new__(cls, name, index=None):
        name = str(name) if index is None else f"{name}:{index}"
        parse_device(name)
        return super().__new__(cls, name)

    @property
    def type(self):
        """'cpu' or 'cuda'."""
        return str(self).partition(":")[0]

    @property
    def index(self):
        """The number of the GPU, None where none is named."""
        return int(self.partition(":")[2]) if ":" in self else None


CPU = Device("cpu")


def device_of(x):
    """'cpu' or 'cuda:N': the `Device` where the array `x` lives."""
    return Device("cuda", x.device.id) if on_gpu(x) else CPU


def to_device(x, device, refresh=None):
    """The array `x` on `device` ('cpu', 'cuda' or 'cuda:N'); `x` itself if it is there already.

    While work for a GPU is being recorded, an array from the host is sent once, before the work is first done; with
    `refresh`, before each replay that which `refresh()` then gives.
    """
    index = parse_device(device)
    if index is None:
        return to_numpy(x)
    cupy = load_cupy()
    check_bfloat16(x.dtype, cupy)
    with cupy.cuda.Device(index):
        if on_gpu(x):
            return cupy.asarray(x)
        from .cuda.record import upload

        return upload(x, refresh)


def beside(x, other, refresh=None):
    """The array `x` where the array `other` lives; `x` itself if it is there already. refresh: see `to_device`."""
    return to_device(x, device_of(other), refresh) if on_gpu(x) or on_gpu(other) else x


def to_numpy(x):
    """The array `x` in the computer's own memory, as a NumPy array (or of another registered library, as it is)."""
    if on_gpu(x):
        return x.get()
    return x if type(x) in LIBRARIES else np.asarray(x)


def host_can_read(x):
    """May the host look at the numbers in the array `x` now?

    To look at an array on a GPU is to wait for it, and work that is being recorded (`cuda/record.py`) cannot be waited
    for. Whoever checks numbers asks this first.
    """
    if not on_gpu(x):
        return True
    from .cuda.record import is_recording

    return not is_recording()
