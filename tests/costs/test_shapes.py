"""Arrays without numbers behave as NumPy's in all that they have: shape, dtype, order in memory, and how many exist."""

import math
import tracemalloc
import weakref

import numpy as np
import pytest
from scipy.special import erf

from lora_np.autograd.devices import array_module, device_of, is_array, is_float, on_gpu, to_device, to_numpy
from lora_np.autograd.fused.blocks import blocks
from lora_np.costs import operators
from lora_np.costs.meter import metered
from lora_np.costs.shapes import ShapeArray

SIZE = (4, 300, 512)  # 2.4 MB: NumPy reuses temporary arrays from 256 KiB on
ids = np.arange(7)
mask = np.arange(300) % 3 == 0

EXPRESSIONS = {
    "a chain with temporary arrays": lambda xp, x, y: x * (x - y) + y,
    "temporary on the right": lambda xp, x, y: y - (x + y),
    "two temporary arrays": lambda xp, x, y: (x + y) * (x - y),
    "a Python number": lambda xp, x, y: (x + y) * 2.0 + 1,
    "a NumPy number": lambda xp, x, y: (x + y) * np.float32(2),
    "a power": lambda xp, x, y: x**3,
    "signs": lambda xp, x, y: -(x + y),
    "comparisons": lambda xp, x, y: (x > 0) & (y <= 1),
    "a mask as numbers": lambda xp, x, y: (x >= 0.5) * x.dtype.type(2),
    "in place": lambda xp, x, y: iadd(x.copy(), y * 2),
    "out": lambda xp, x, y: xp.exp(x, out=xp.empty_like(x)),
    "functions": lambda xp, x, y: xp.sqrt(xp.maximum(xp.tanh(x), 0)),
    "a function of SciPy": lambda xp, x, y: erf(x * math.sqrt(0.5)),
    "sums": lambda xp, x, y: x.sum(axis=-1, keepdims=True),
    "all sums": lambda xp, x, y: (x.max(axis=(0, 1)), x.min(), x.mean(dtype=np.float64), (x == y).sum(axis=1)),
    "float64": lambda xp, x, y: x.astype(np.float64) + y,
    "integers": lambda xp, x, y: (x > 0).astype(np.int8) << 1,
    "stacks of products": lambda xp, x, y: x @ y.swapaxes(-1, -2),
    "a product scaled": lambda xp, x, y: (x[0] @ y[0].T) * np.float32(2),
    "a product into": lambda xp, x, y: xp.matmul(x, y.swapaxes(1, 2), out=xp.empty((4, 300, 300), x.dtype)),
    "einsum": lambda xp, x, y: (xp.einsum("bnc,bnc->bn", x, y), xp.einsum("bnc->bn", x)),
    "a reshape that is a view": lambda xp, x, y: x.reshape(-1, 512),
    "a reshape that copies": lambda xp, x, y: x.swapaxes(1, 2).reshape(4, -1),
    "a reshape of a slice": lambda xp, x, y: x[:, :, :256].reshape(4, 300, 2, 128),
    "slices": lambda xp, x, y: x[1:3, ..., ::2][:, None, -1],
    "rows by number": lambda xp, x, y: (x[0][ids], x[:, ids], x[0, ids, ids + 1], x[..., ids]),
    "rows by mask": lambda xp, x, y: x[:, mask],
    "order kept": lambda xp, x, y: x.swapaxes(0, 2) * y.T.swapaxes(0, 0) + 1,
    "order kept by astype": lambda xp, x, y: x.transpose(1, 2, 0).astype(np.float64),
    "order of empty_like": lambda xp, x, y: xp.empty_like(x.swapaxes(0, 1)),
    "broadcasting": lambda xp, x, y: x[:, :1] + y[:1],
    "concatenation": lambda xp, x, y: xp.concatenate([x, y[:, :5]], axis=1),
    "choice": lambda xp, x, y: (xp.where(x > y, x, 0), xp.where(x[0] > 0, np.float32(0), 1.0)),
    "axes moved": lambda xp, x, y: (xp.moveaxis(x, -1, 0), xp.broadcast_to(x[:1], SIZE)),
    "repetition": lambda xp, x, y: xp.repeat(x[0], 3),
    "other bytes": lambda xp, x, y: (x.view(np.uint64), x.view(np.int16), x.swapaxes(0, 1).view(np.int32)),
    "groups": lambda xp, x, y: np.add.reduceat(x[0], ids * 2),
}


def iadd(x, y):
    x += y
    x *= 0.5
    return x


def results_and_peak(run, xp, x, y, begin, end):
    begin()
    found = run(xp, x, y)
    found = found if isinstance(found, tuple) else (found,)
    return [(np.shape(z), z.dtype, _order(z), getattr(z, "base", None) is None) for z in found], end()


def _order(z):
    strides = getattr(z, "layout", z).strides
    return z.flags.c_contiguous, sorted(range(z.ndim), key=lambda i: -strides[i])


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_results_views_and_bytes_are_numpys(name):
    def end_tracing():
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    x, y = np.ones(SIZE, np.float32), np.ones(SIZE, np.float32)
    expected, traced = results_and_peak(EXPRESSIONS[name], np, x, y, tracemalloc.start, end_tracing)
    with metered() as meter:
        x, y = ShapeArray(SIZE), ShapeArray(SIZE)
        before = meter.mark()
        xp = array_module(x)
        found, counted = results_and_peak(EXPRESSIONS[name], xp, x, y, lambda: None, lambda: meter.peak - before)
        assert meter.live == before
        assert found == expected
        assert traced <= counted + 200_000  # Python's objects and NumPy's buffers
        assert counted <= traced or operators.LEFT is None  # where temporary arrays cannot be told, more is counted


def test_bytes_that_make_no_whole_numbers_are_refused():
    for x in (ShapeArray((2, 3)), ShapeArray((4, 2)).T):
        with pytest.raises(ValueError, match="the bytes of its rows must be whole numbers, in order"):
            x.view(np.float64)


def test_arrays_of_numpys_own_count_while_they_live():
    with metered() as meter:
        x, before = ShapeArray((3, 4)), meter.live
        table = np.ones((8, 4), np.float32)
        half = table[:4]
        assert (x * half[:3]).shape == (x * table[2:5]).shape == (3, 4)
        assert meter.live - before == table.nbytes  # once, and whole
        gone = weakref.ref(table)
        del table, half
        assert gone() is None
        assert meter.live == before


def test_products_are_counted():
    with metered() as meter:
        x = ShapeArray((2, 3, 5))
        x @ ShapeArray((5, 7))
        assert meter.products == 2 * 3 * 5 * 7
        meter.mark()
        assert meter.products == 0


def test_each_block_of_code_has_a_meter_of_its_own():
    with metered() as outer:
        x = ShapeArray((10,), np.float64)
        with metered() as inner:
            y = ShapeArray((10,))
        assert (outer.live, inner.live) == (80, 40)
        del x, y
        assert (outer.live, inner.live, outer.peak) == (0, 0, 80)


def test_values_give_harmless_answers():
    x = ShapeArray((3,))
    assert (x > 0).all()
    assert float(x.sum()) == x.max().item() == 0
    assert repr(x) == "ShapeArray((3,), float32)"
    assert [part.shape for part in x] == [(), (), ()]
    x[0] = 1


def test_what_is_not_followed_is_said():
    x = ShapeArray((3, 3))
    with pytest.raises(TypeError, match=r"no implementation found for 'numpy.linalg.svd'|numpy.linalg"):
        np.linalg.svd(x)
    with pytest.raises(ValueError, match=r"matmul: shapes \(3, 3\) and \(4, 3\) do not fit"):
        x @ ShapeArray((4, 3))
    with pytest.raises(ValueError, match="products of vectors are not followed"):
        x @ x[0]
    with pytest.raises(ValueError, match="broadcast"):
        x + ShapeArray((4, 4))
    with pytest.raises(ValueError, match="reshape"):
        x.reshape(2, 5)
    with pytest.raises(ValueError, match="reshape"):
        x.T.reshape(2, 5)


def test_the_engine_takes_them_for_arrays():
    x = ShapeArray((2, 3))
    assert is_array(x)
    assert is_float(x)
    assert not on_gpu(x)
    assert device_of(x) == "cpu"
    assert to_device(x, "cpu") is to_numpy(x) is x
    assert blocks(10, 1 << 18, array_module(x)) == [slice(0, 2), slice(2, 4), slice(8, 10)]
    assert len(blocks(10, 1 << 18, np)) == 5
