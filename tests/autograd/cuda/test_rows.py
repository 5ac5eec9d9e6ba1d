"""Rows that each have an adapter, by cuBLAS's lists of matrices, against the plain form in NumPy."""

import numpy as np
import pytest

from lora_np.autograd import fused

pytestmark = pytest.mark.gpu


def some_updates(rng, kinds, fan_in, fan_out):
    """For each of `kinds`, (rank, scaling) or None, an adapter's matrices."""
    return [
        None
        if kind is None
        else (rng.standard_normal((kind[0], fan_in)), rng.standard_normal((fan_out, kind[0])), kind[1])
        for kind in kinds
    ]


@pytest.mark.parametrize("tokens", [(), (1,), (7,), (3, 5)])
@pytest.mark.parametrize(
    "kinds",
    [
        [(8, 2.0)],
        [None, (8, 2.0), (8, 2.0), None, (8, 0.5)],
        [(1, 1.0), (3, 0.25), (1, 1.0), (33, 3.0), (3, 0.25)],
        [None, None],
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_rows_into(tokens, kinds, in_place, turned):
    import cupy

    from lora_np.autograd import cuda

    rng, (fan_in, fan_out) = np.random.default_rng(0), (5, 11)
    x, y = (rng.standard_normal((len(kinds), *tokens, width)) for width in (fan_in, fan_out))
    updates, expected = some_updates(rng, kinds, fan_in, fan_out), np.empty_like(y)
    fused.lora_rows_into(expected, y, x, updates)
    there = [cupy.asarray(array, dtype=np.float32) for array in (y, x)]
    moved = [
        None if u is None else (*(cupy.asarray(m, np.float32, order="F" if turned else "C") for m in u[:2]), u[2])
        for u in updates
    ]
    out = there[0] if in_place else cupy.full_like(there[0], np.nan)
    cuda.lora_rows_into(out, *there, moved)
    np.testing.assert_allclose(out.get(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(there[1].get(), x.astype(np.float32))
