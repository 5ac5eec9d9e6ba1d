"""Large arrays, a few rows at a time."""

import types

import numpy as np
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from lora_np.autograd.fused.blocks import blocks


@examples
@given(st.integers(0, 300), st.integers(0, 40), st.integers(1, 400))
def test_blocks_cover_a_range_in_order(length, row_bytes, cache_bytes):
    slices = blocks(length, row_bytes, np, cache_bytes)
    assert [i for s in slices for i in range(length)[s]] == list(range(length))
    for s in slices:
        assert s.stop - s.start == 1 or (s.stop - s.start) * row_bytes <= cache_bytes


def test_a_gpu_gets_one_block():
    assert blocks(1000, 1 << 20, types.ModuleType("cupy")) == [slice(0, 1000)]


def test_another_library_is_treated_as_the_cpu_and_may_pass_some_over():
    library = types.ModuleType("shapes")
    assert blocks(4, 1 << 18, library) == [slice(0, 2), slice(2, 4)]
    library.some_blocks = lambda slices: slices[-1:]
    assert blocks(4, 1 << 18, library) == [slice(2, 4)]
    assert blocks(4, 1, library) == [slice(0, 4)]
