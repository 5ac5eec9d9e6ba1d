"""Rows that each have an adapter, by kernels that are told where the matrices lie, against the plain form in NumPy."""

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


@pytest.mark.parametrize("tokens", [(), (1,), (7,), (3, 5), (37,)])
@pytest.mark.parametrize(
    "kinds",
    [
        [(8, 2.0)],
        [None, (8, 2.0), (8, 2.0), None, (8, 0.5)],
        [(1, 1.0), (3, 0.25), (1, 1.0), (33, 3.0), (16, 0.25)],
        [None, None],
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("widths", [(5, 11), (136, 20)])  # numbers one by one, and several at once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_into(tokens, kinds, in_place, turned, widths, dtype):
    import cupy

    from lora_np.autograd import cuda
    from lora_np.autograd.conversion import as_dtype

    rng, (fan_in, fan_out) = np.random.default_rng(0), widths
    x, y = (rng.standard_normal((len(kinds), *tokens, width)).astype(np.float32) for width in widths)
    kind = as_dtype(dtype)
    x, y = (array.astype(kind).astype(np.float64) for array in (x, y))
    updates, expected = some_updates(rng, kinds, fan_in, fan_out), np.empty_like(y)
    fused.lora_rows_into(expected, y, x, updates)
    there = [cupy.asarray(array.astype(np.float32)).astype(kind) for array in (y, x)]
    moved = [
        None if u is None else (*(cupy.asarray(m, np.float32, order="F" if turned else "C") for m in u[:2]), u[2])
        for u in updates
    ]
    out = there[0] if in_place else cupy.full_like(there[0], np.nan)
    ready = cuda.lora_rows_ready(moved)
    for _ in range(2):  # the same addresses again, where y is not written to
        cuda.lora_rows_into(out, *there, ready)
        if in_place:
            break
    rtol = 1e-4 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(out.astype(np.float32).get(), expected, rtol=rtol, atol=1e-3)
    np.testing.assert_array_equal(there[1].astype(np.float32).get(), x.astype(np.float32))
