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
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("widths", [(5, 11, 7), (136, 20, 1030)])  # numbers one by one, and several at once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_in_and_out(tokens, kinds, turned, widths, dtype):
    """Of two layers that read one x; the first has an adapter for every second row only."""
    import cupy

    from lora_np.autograd import cuda
    from lora_np.autograd.conversion import as_dtype

    rng, kind, given = np.random.default_rng(0), as_dtype(dtype), []
    x, *ys = (rng.standard_normal((len(kinds), *tokens, width)).astype(np.float32) for width in widths)
    for layer, width in enumerate(widths[1:]):
        own = [k if layer or i % 2 else None for i, k in enumerate(kinds)]
        given.append(some_updates(rng, own, widths[0], width))
    there = [cupy.asarray(array).astype(kind) for array in (x, *ys)]
    x, *ys = (array.astype(np.float32).get().astype(np.float64) for array in there)
    ready = cuda.lora_rows_ready([[on_the_gpu(update, turned) for update in updates] for updates in given])
    h = cuda.lora_rows_in(there[0], ready)
    for i, (y, updates) in enumerate(zip(ys, given, strict=True)):
        expected = np.empty_like(y)
        fused.lora_rows_into(expected, y, x, updates)
        cuda.lora_rows_out(there[1 + i], h, ready, i)
        rtol = 1e-4 if dtype == "float32" else 2**-8
        np.testing.assert_allclose(there[1 + i].astype(np.float32).get(), expected, rtol=rtol, atol=1e-3)


@pytest.mark.parametrize("tokens", [(), (7,), (3, 13)])
@pytest.mark.parametrize("kinds", [[(8, 2.0)], [None, (8, 0.5), (3, 1.0), (33, 0.25)], [None]])
@pytest.mark.parametrize("widths", [(5, 11), (136, 1032)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_swiglu_of_rows(tokens, kinds, widths, dtype):
    """Of two layers that read one x; some rows have an adapter for one of them only, some for none."""
    import cupy

    from lora_np.autograd import cuda
    from lora_np.autograd.conversion import as_dtype

    rng, (fan_in, fan_out) = np.random.default_rng(0), widths
    shapes = [(len(kinds), *tokens, width) for width in (fan_in, fan_out, fan_out)]
    there = [cupy.asarray(rng.standard_normal(shape), np.float32).astype(as_dtype(dtype)) for shape in shapes]
    x, *ys = (array.astype(np.float32).get().astype(np.float64) for array in there)
    given = [some_updates(rng, own, fan_in, fan_out) for own in (kinds, kinds[::-1])]
    ready = cuda.lora_rows_ready([[on_the_gpu(update, False) for update in updates] for updates in given])
    cuda.lora_rows_swiglu(there[1], there[2], cuda.lora_rows_in(there[0], ready), ready)
    for y, updates in zip(ys, given, strict=True):
        fused.lora_rows_into(y, y.copy(), x, updates)
    expected, _ = fused.swiglu_forward(*ys, needs=(False, False))
    rtol = {"float32": 1e-4, "float16": 2**-10, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(there[1].astype(np.float32).get(), expected, rtol=rtol, atol=1e-3 + rtol)


def on_the_gpu(update, turned):
    import cupy

    order = "F" if turned else "C"
    return update and (*(cupy.asarray(matrix, np.float32, order=order) for matrix in update[:2]), update[2])
