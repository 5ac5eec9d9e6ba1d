"""What is asked about GPUs, with and without one."""

import sys

import pytest

import lora_np
from lora_np.autograd import gpus


def test_without_cupy_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert not gpus.is_available()
    assert gpus.device_count() == 0
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
