"""The device that a notebook runs on: is there a GPU, what is it called, and how long did its work take?"""

import os
import time

from lora_np.autograd.devices import load_cupy, parse_device


def gpu_available():
    """Is there a GPU that CuPy can use?"""
    try:
        load_cupy()
    except RuntimeError:
        return False
    return True


def device_name(device):
    """What a person calls it: the GPU's name, or how many cores the CPU has."""
    index = parse_device(device)
    if index is None:
        return f"{os.cpu_count()} CPU cores"
    return load_cupy().cuda.runtime.getDeviceProperties(index)["name"].decode()


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
