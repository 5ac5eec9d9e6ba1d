"""Attention by tiles, against the library's pair, which knows nothing of tiles."""

import tracemalloc

import numpy as np
import pytest

from lora_course import tiles
from lora_np.autograd import fused


@pytest.mark.parametrize("T", [1, 5, 64, 65, 130])
@pytest.mark.parametrize("tile", [1, 7, 64])
def test_tiles_are_attention(rng, T, tile):
    q, k, v, dout = rng.standard_normal((4, 2, 3, T, 5))
    q = 30 * q  # a maximum that rises late would overflow if it were not taken away
    expected, cache = fused.attention_forward(q, k, v)
    out, log_sum = tiles.attention(q, k, v, tile)
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)
    gradients = tiles.attention_backward(dout, q, k, v, out, log_sum, tile)
    for found, right in zip(gradients, fused.attention_backward(dout, cache), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-9)


def test_no_array_is_as_large_as_the_scores(rng):
    q, k, v = rng.standard_normal((3, 1, 1, 1024, 8))
    tracemalloc.start()
    out, log_sum = tiles.attention(q, k, v)
    tiles.attention_backward(out, q, k, v, out, log_sum)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024 * 1024 * 8 / 8
