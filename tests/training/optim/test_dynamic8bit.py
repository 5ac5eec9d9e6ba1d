"""The 8-bit code of an optimizer's state: its values, and how near to a number the nearest is."""

import numpy as np
import pytest

from lora_np.autograd.devices import to_numpy
from lora_np.training.optim.dynamic8bit import _nearest, dequantize_blockwise, dynamic_code, quantize_blockwise


def by_the_paper(signed):
    """Byte by byte, as figure 2 of the paper reads it: sign, zeros for the exponent, a one, and a linear fraction."""
    values = []
    for byte in range(256):
        bits = f"{byte:08b}"
        sign, bits = (-1.0 if bits[0] == "1" else 1.0, bits[1:]) if signed else (1.0, bits)
        zeros, _, fraction = bits.partition("1")
        if "1" not in bits:  # the byte without a one: zero; with the sign set, the exact 1
            values.append(1.0 if sign < 0 else 0.0)
            continue
        parts = 2 ** len(fraction)
        exponent = len(zeros)
        values.append(sign * 10.0**-exponent * (0.1 + 0.9 * (int(fraction or "0", 2) + 0.5) / parts))
    return np.array(sorted(values))


def test_the_code_is_the_papers():
    np.testing.assert_allclose(dynamic_code(signed=True), by_the_paper(signed=True), rtol=1e-6)
    unsigned, expected = dynamic_code(signed=False), by_the_paper(signed=False)
    np.testing.assert_allclose(unsigned[1:-1], expected[2:], rtol=1e-6)  # the byte for 10^-7 is the exact 1 instead
    for code in (dynamic_code(signed=True), unsigned):
        assert len(set(code.tolist())) == 256
        assert code[-1] == 1
        assert 0 in code
        assert (np.diff(code) > 0).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(7, 300), (256,), (1,), (3, 5, 64)], ids=str)
def test_every_number_gets_the_nearest_value_of_its_block(rng, xp, signed, shape):
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 0, shape)
    x = (x if signed else np.square(x)).astype(np.float32)
    codes, absmax = quantize_blockwise(xp.asarray(x), signed)
    assert (codes.dtype, codes.shape, absmax.shape) == (np.uint8, shape, (-(-x.size // 256),))
    found = to_numpy(dequantize_blockwise(codes, absmax, signed)).reshape(-1)
    for start in range(0, x.size, 256):
        block = x.reshape(-1)[start : start + 256]
        largest = np.abs(block).max()
        choices = dynamic_code(signed) * largest
        best = np.abs(block[:, None] - choices).min(axis=1)
        np.testing.assert_allclose(np.abs(found[start : start + 256] - block), best, atol=1e-6 * largest)
        assert best.max() < 0.0071 * largest
        if block.max() == largest:
            assert found[start : start + 256].max() == largest


def test_zeros_stay_zeros(xp):
    codes, absmax = quantize_blockwise(xp.zeros((3, 100), xp.float32))
    np.testing.assert_array_equal(to_numpy(dequantize_blockwise(codes, absmax)), 0)


@pytest.mark.parametrize("signed", [True, False])
def test_the_short_way_to_the_nearest_value_is_the_long_one(xp, signed):
    """Numbers of all sizes, and those just beside every middle, where only one step of float32 decides."""
    code = dynamic_code(signed)
    middles = (code[1:] + code[:-1]) / 2
    near = np.concatenate([middles, np.nextafter(middles, np.float32(2)), np.nextafter(middles, np.float32(-2))])
    sizes = np.logspace(-9, 0, 20000, dtype=np.float32)
    x = np.concatenate([near, code, sizes, -sizes if signed else sizes, [0.0, 1.0]]).astype(np.float32)
    found = to_numpy(_nearest(xp.asarray(x), signed))
    np.testing.assert_array_equal(found, np.searchsorted(middles, x))
