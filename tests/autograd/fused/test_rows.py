"""Low-rank updates of many adapters at once: the plain formula, adapter by adapter, and central differences."""

import itertools

import numpy as np
import pytest
from helpers import TOLERANCE, assert_close, assert_same_gradients, check_differences, cotangent

from lora_np.autograd import fused
from lora_np.autograd.devices import to_numpy
from lora_np.autograd.fused import reference

ROWS = {
    "in order": (4, 4, None),
    "two rows each, in order": (4, 2, None),
    "another order": (4, 2, [[3, 0], [2, 1]]),
    "some rows": (5, 2, [[4], [1]]),
    "one adapter": (3, 1, [[0, 2]]),
}
NEEDS = list(itertools.product([True, False], repeat=4))


def drawn(case, tokens, cast):
    (B, n, rows), rng = ROWS[case], np.random.default_rng(0)
    x, y = rng.standard_normal((B, *tokens, 3)), rng.standard_normal((B, *tokens, 5))
    A, B_turned = rng.standard_normal((n, 2, 3)), rng.standard_normal((n, 2, 5))
    arrays = [cast(a) for a in (y, x, A, B_turned)]
    return arrays, [0.5 * g - 2 for g in range(n)], None if rows is None else np.array(rows)


def one_by_one(arrays, scalings, rows):
    """(result, dout -> gradients): each adapter as a `lora_linear` beside a layer of zeros."""
    y, x, A, B = (to_numpy(a).astype(np.float64) for a in arrays)
    rows = np.arange(len(x)).reshape(len(A), -1) if rows is None else rows
    out, caches = y.copy(), []
    for g, mine in enumerate(rows):
        update, cache = reference.lora_linear_forward(x[mine], np.zeros((5, 3)), None, A[g], B[g].T, scalings[g])
        out[mine] += update
        caches.append(cache)

    def backward(dout):
        dx, dA, dB = np.zeros(x.shape), np.zeros(A.shape), np.zeros(B.shape)
        for g, mine in enumerate(rows):
            dx[mine], _, _, dA[g], d = reference.lora_linear_backward(dout[mine], caches[g])
            dB[g] = d.T
        return dout, dx, dA, dB

    return out, backward


@pytest.mark.parametrize("tokens", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ROWS)
def test_it_is_each_adapter_on_its_rows(xp, case, dtype, tokens):
    arrays, scalings, rows = drawn(case, tokens, lambda a: xp.asarray(a, dtype))
    tolerance = {} if dtype == "float64" else TOLERANCE[dtype]
    expected, expected_backward = one_by_one(arrays, scalings, rows)
    before = [to_numpy(a).copy() for a in arrays]
    for needs in NEEDS:
        out, cache = fused.lora_rows_forward(*arrays, scalings, rows, needs=needs)
        assert_close(out, expected, **tolerance)
        assert out.dtype == dtype
        dout = cotangent(out)
        found = fused.lora_rows_backward(dout, cache)
        assert_same_gradients(found, expected_backward(to_numpy(dout).astype(np.float64)), needs, **tolerance)
        assert all(d is None or d.dtype == dtype for d in found)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(to_numpy(a), b)


@pytest.mark.parametrize("case", ROWS)
def test_gradients_by_central_differences(xp, case):
    arrays, scalings, rows = drawn(case, (2,), xp.asarray)
    check_differences(fused.lora_rows_forward, fused.lora_rows_backward, arrays, scalings, rows)


def test_rows_of_no_adapter_stay_bit_for_bit(xp):
    arrays, scalings, rows = drawn("some rows", (3,), lambda a: xp.asarray(a, "float32"))
    out, _ = fused.lora_rows_forward(*arrays, scalings, rows)
    np.testing.assert_array_equal(to_numpy(out)[[0, 2, 3]], to_numpy(arrays[0])[[0, 2, 3]])


def test_what_no_gradient_needs_is_not_kept():
    arrays, scalings, rows = drawn("in order", (3,), np.asarray)
    (inputs, h), (A, _), *_ = fused.lora_rows_forward(*arrays, scalings, rows, needs=(True, False, False, False))[1]
    assert inputs is h is A is None
