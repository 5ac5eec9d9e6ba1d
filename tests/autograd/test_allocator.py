"""Keeping freed memory: what the C library is asked for."""

import types

import pytest

from lora_np.autograd import allocator

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

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=mallopt))
    assert allocator.keep_freed_memory() is agrees
    if agrees:
        assert 2**25 <= taken[M_MMAP_THRESHOLD] <= largest
        assert taken[M_TRIM_THRESHOLD] >= 2**30


def test_keep_freed_memory_elsewhere_does_nothing(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    assert allocator.keep_freed_memory() is False
