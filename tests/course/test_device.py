"""What the course asks of a device: its name, and the time between two moments of its work."""

import sys
import time

import numpy as np
import pytest

from lora_course import device


def test_a_device_has_a_name_for_people():
    assert device.device_name("cpu").endswith("CPU cores")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        device.device_name("tpu")


def test_moments_of_the_cpu():
    start = device.moment("cpu")
    time.sleep(0.01)
    device.synchronize("cpu")
    assert 0.01 <= device.seconds_between(start, device.moment("cpu")) < 5


def test_no_gpu_where_cupy_is_missing_or_finds_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not device.gpu_available()


@pytest.mark.gpu
def test_moments_of_a_gpu_measure_its_work():
    import cupy

    assert device.gpu_available()
    x = cupy.ones((4096, 4096), np.float32)
    start = device.moment("cuda")
    for _ in range(20):
        x = x @ x
    end = device.moment("cuda")
    taken = device.seconds_between(start, end)
    assert taken > 20 * 2 * 4096**3 / 1e16
    assert 0 <= device.seconds_between(end, device.moment("cuda:0")) < taken
    device.synchronize("cuda")
