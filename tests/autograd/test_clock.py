"""Moments of a device, and its name."""

import sys
import time

import numpy as np
import pytest

from lora_np.autograd import clock


def test_a_device_has_a_name_for_people():
    assert clock.device_name("cpu").endswith("CPU cores")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        clock.device_name("tpu")


def test_moments_of_the_cpu():
    start = clock.moment("cpu")
    time.sleep(0.01)
    clock.synchronize("cpu")
    assert 0.01 <= clock.seconds_between(start, clock.moment("cpu")) < 5


def test_no_gpu_where_cupy_is_missing_or_finds_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not clock.gpu_available()


@pytest.mark.gpu
def test_moments_of_a_gpu_measure_its_work():
    import cupy

    assert clock.gpu_available()
    x = cupy.ones((4096, 4096), np.float32)
    start = clock.moment("cuda")
    for _ in range(20):
        x = x @ x
    end = clock.moment("cuda")
    taken = clock.seconds_between(start, end)
    assert taken > 20 * 2 * 4096**3 / 1e16
    assert 0 <= clock.seconds_between(end, clock.moment("cuda:0")) < taken
    clock.synchronize("cuda")
