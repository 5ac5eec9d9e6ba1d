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


@pytest.mark.parametrize("tokens", [(1,), (3, 5)])
@pytest.mark.parametrize("kinds", [[(8, 2.0), (3, 0.5), (16, 0.25)], [None, (8, 2.0), None, (1, 1.0)], [None, None]])
@pytest.mark.parametrize("fan_in_fan_out", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("cached", [1, 1 << 12, 1 << 20])  # row by row, some rows at a time, all at once
def test_rows_and_their_base_layers_in_one(tokens, kinds, fan_in_fan_out, has_bias, dtype, cached, monkeypatch):
    """Of two layers that read one x; the first has an adapter for every second row only."""
    from lora_np.autograd import cuda
    from lora_np.autograd.conversion import as_dtype

    monkeypatch.setattr(cuda.rows, "CACHED", cached)
    rng, kind, given, bases, expected = np.random.default_rng(0), as_dtype(dtype), [], [], []
    there, x = rounded(rng, (len(kinds), *tokens, 24), kind)
    for layer, width in enumerate((40, 12)):
        weight = rounded(rng, (24, width) if fan_in_fan_out else (width, 24), kind)
        bias = rounded(rng, width, kind)
        given.append(some_updates(rng, [k if layer or i % 2 else None for i, k in enumerate(kinds)], 24, width))
        bases.append((weight[0], bias[0] if has_bias else None, fan_in_fan_out))
        plain, _ = fused.linear_forward(x, weight[1], bias[1] if has_bias else None, fan_in_fan_out)
        expected.append(np.empty_like(plain))
        fused.lora_rows_into(expected[-1], plain, x, given[-1])
    ready = cuda.lora_rows_ready([[on_the_gpu(update, False) for update in updates] for updates in given])
    for y, right in zip(cuda.lora_rows_and_bases(there, bases, ready), expected, strict=True):
        assert y.dtype == kind
        error = abs(y.astype(np.float32).get() - right).max() / abs(right).max()
        assert error < {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}[dtype]


def rounded(rng, shape, kind):
    """Random numbers in this dtype on the GPU, and the same in float64."""
    import cupy

    array = cupy.asarray(rng.standard_normal(shape), np.float32).astype(kind)
    return array, array.astype(np.float32).get().astype(np.float64)


def on_the_gpu(update, turned):
    import cupy

    order = "F" if turned else "C"
    return update and (*(cupy.asarray(matrix, np.float32, order=order) for matrix in update[:2]), update[2])
