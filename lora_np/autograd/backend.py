"""NumPy or CuPy: the one place that chooses.

Everything above this file is written once. It asks `array_module(x)` for the library that made the array
`x` and calls that: the same line runs on a laptop and on an NVIDIA GPU. CuPy is imported only when
somebody asks for a GPU; a machine without one never needs it.
"""

import ctypes
import os
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np

FLOATS = (np.float16, np.float32, np.float64)


_libraries = {np.ndarray: np}  # {type of array: library}; CuPy is asked for by name, as it may never be imported


def register_arrays(kind, library):
    """Let the engine work on arrays of the type `kind`, with `library` in the place of the module numpy."""
    _libraries[kind] = library


def array_module(x):
    """The library (the module numpy or cupy, or what was registered) that made the array `x`."""
    library = _libraries.get(type(x))
    return library or (sys.modules["cupy"] if on_gpu(x) else np)


def on_gpu(x):
    """Is `x` an array on a GPU?"""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def is_array(x):
    """Is `x` an array of a library that is known? NumPy's scalars (`np.float32(1)`) count as 0-d arrays."""
    return isinstance(x, (np.ndarray, np.generic)) or type(x) in _libraries or on_gpu(x)


def is_float(x):
    """Does the array `x` hold floating-point numbers, so that a gradient makes sense?"""
    return x.dtype.kind == "f"


def load_cupy():
    """Import CuPy and make sure that a GPU answers; say in one sentence what is missing if not."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "device 'cuda' needs CuPy, which is not installed: pip install -e '.[cuda12]' or '.[cuda13]' "
            "(the one that matches your CUDA version, never both), or use device='cpu'"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"CuPy is installed but finds no usable GPU ({error}); use device='cpu'") from error
    if count == 0:
        raise RuntimeError("CuPy is installed but this machine has no GPU; use device='cpu'")
    return cupy


def parse_device(device):
    """'cpu' -> None; 'cuda' -> 0; 'cuda:1' -> 1. Anything else is a ValueError."""
    name, colon, index = str(device).partition(":")
    if device == "cpu":
        return None
    if name == "cuda" and (index.isdecimal() if colon else True):
        return int(index or 0)
    raise ValueError(f"unknown device {device!r}: expected 'cpu', 'cuda' or 'cuda:N'")


def device_name(device):
    """What a person calls it: the GPU's name, or how many cores the CPU has."""
    index = parse_device(device)
    if index is None:
        return f"{os.cpu_count()} CPU cores"
    return load_cupy().cuda.runtime.getDeviceProperties(index)["name"].decode()


def gpu_available():
    """Is there a GPU that CuPy can use?"""
    try:
        load_cupy()
    except RuntimeError:
        return False
    return True


def moment(device):
    """A point in the device's work, for `seconds_between`; nobody waits for it.

    For the CPU it is now. For a GPU, which is given work ahead of time, it is when it has done all it was given so far.
    """
    index = parse_device(device)
    if index is None:
        return time.perf_counter()
    cupy = load_cupy()
    with cupy.cuda.Device(index):
        event = cupy.cuda.Event()
        event.record()
    return event


def seconds_between(start, end):
    """The time from one `moment` to a later one of the same device; waits until a GPU has got there."""
    if isinstance(end, float):
        return end - start
    end.synchronize()
    return load_cupy().cuda.get_elapsed_time(start, end) / 1e3


def synchronize(device):
    """Wait until the device has done all the work that it was given."""
    index = parse_device(device)
    if index is not None:
        load_cupy().cuda.Device(index).synchronize()


def device_of(x):
    """'cpu' or 'cuda:N': where the array `x` lives."""
    return f"cuda:{x.device.id}" if on_gpu(x) else "cpu"


def to_device(x, device):
    """The array `x` on `device` ('cpu', 'cuda' or 'cuda:N'); `x` itself if it is there already."""
    index = parse_device(device)
    if index is None:
        return to_numpy(x)
    cupy = load_cupy()
    with cupy.cuda.Device(index):
        return cupy.asarray(x)


def to_numpy(x):
    """The array `x` in the computer's own memory, as a NumPy array (or one that was registered, as it is)."""
    if on_gpu(x):
        return x.get()
    return x if type(x) in _libraries else np.asarray(x)


def blocks(length, row_bytes, xp, cache_bytes=1 << 19):
    """Slices that cover range(length), each about as many rows as fit the processor's cache.

    Several elementwise steps in a row then find their block still in the cache, instead of sending a large array
    through memory once per step: on two cores this made GELU and softmax more than twice as fast. A GPU wants the
    opposite, so for CuPy there is one slice. A registered library may pass some over (`some_blocks`).
    """
    rows = length if xp.__name__ == "cupy" else max(1, cache_bytes // max(1, row_bytes))
    slices = [slice(start, min(start + rows, length)) for start in range(0, length, max(1, rows))]
    return slices if xp is np else getattr(xp, "some_blocks", list)(slices)


_precision = {"tf32": os.environ.get("LORA_NP_TF32", "0") == "1"}


def set_tf32(enabled):
    """Let float32 products on a GPU round their inputs to TF32: 10 bits of mantissa, several times as fast.

    Off unless LORA_NP_TF32=1. It holds for every product of the engine; what is added up stays float32.
    """
    _precision["tf32"] = bool(enabled)


def tf32_enabled():
    """May float32 products on a GPU use TF32?"""
    return _precision["tf32"]


class _Random(threading.local):
    """The current seed and, for each library, the generator made from it (one per thread)."""

    def __init__(self):
        self.seed, self.generators = None, {}


_random = _Random()


def manual_seed(seed):
    """Start the random numbers of this thread anew. `seed`: an int, or a tuple of ints such as (seed, step).

    Initial weights, dropout masks and sampling all draw from here, so the same seed gives the same run.
    """
    entropy = np.random.SeedSequence(seed)  # refuses what is not a valid seed
    _random.seed, _random.generators = entropy, {}


@contextmanager
def random_seed(seed):
    """Inside this block, random numbers follow from `seed`; after it they go on as if it had not been."""
    before = _random.seed, _random.generators
    manual_seed(seed)
    try:
        yield
    finally:
        _random.seed, _random.generators = before


def generator(xp=np):
    """The random generator in use for the library `xp` (numpy.random.Generator or CuPy's)."""
    if xp not in _random.generators:
        entropy = _random.seed or np.random.SeedSequence()
        seed = entropy if xp is np else int(entropy.generate_state(1, np.uint64)[0])
        _random.generators[xp] = xp.random.default_rng(seed)
    return _random.generators[xp]


def keep_freed_memory():
    """Ask glibc to keep freed blocks for reuse instead of returning them to the system; True if it agrees.

    A training step frees and asks for the same large arrays over and over. Each time they come as new pages, which
    the system must clear first. The process then holds its peak memory until it ends. Without glibc, nothing happens.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    largest_map = any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25))  # older versions allow 32 MiB
    return largest_map and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
