r"""NF4, QLoRA's number format: 4 bits a number, in blocks that each have their own scale. Plain functions on arrays.

From Dettmers et al., 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3: the codes are indices into 16
quantiles of the normal distribution, each block of 64 has its absmax, and these absmax are quantised in their turn.
"""

import functools
from dataclasses import dataclass

import numpy as np

from ..autograd.devices import array_module, device_of, is_array, is_float, to_device
from ..autograd.dispatch import implementation
from ..autograd.tensor import data
from ..extras import require

# The published values, digit for digit, so that a code means here what it means elsewhere. They were computed in
# float32; `normal_float`, which says where they come from, lands within 2⁻²³ of each.
NF4 = np.array(
    [
        [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453],
        [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0],
        [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224],
        [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    ],
    np.float32,
).reshape(16)
ABSMAX_GROUP = 256  # how many absmax share one scale in double quantisation


def normal_float(offset=0.9677083):
    r"""The 16 values of NF4, float32 and increasing: quantiles of the normal distribution, the largest scaled to 1.

    With Φ⁻¹ the normal quantile function: Φ⁻¹ at 8 even steps from ½ (left out) to `offset` gives the positive
    values, 7 such steps the negative ones, and 0 is the 16th, exact so that a zero weight stays zero. Equal steps in
    probability are there so that each value serves about as many weights as any other. The offset, 1 - ½(1/30 + 1/32),
    keeps the outermost quantile finite. (Dettmers et al., 2023, eq. 4, and `create_normal_map` of bitsandbytes.)
    """
    ndtri = require("scipy.special", "computing the values of NF4", "scipy").ndtri
    positive, negative = (ndtri(np.linspace(0.5, offset, count + 1)[1:]) for count in (8, 7))
    return (np.concatenate([-negative[::-1], [0], positive]) / positive[-1]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as `quantize_nf4` leaves it. `nbytes` is what its arrays take, in bytes.

    shape         of the weight
    codes         (blocks, block_size / 2) uint8: indices into NF4, the first of each two in the high four bits
    absmax        (blocks,) float32: each block's largest |w|; with double quantisation int8, see `_quantize_absmax`
    absmax_scale  (blocks / 256, rounded up,) float32, or None without double quantisation
    absmax_mean   (1,) float32, or None
    """

    shape: tuple
    codes: object
    absmax: object
    absmax_scale: object = None
    absmax_mean: object = None

    @property
    def nbytes(self):
        arrays = (self.codes, self.absmax, self.absmax_scale, self.absmax_mean)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def bits_per_weight(self):
        """4 + 32/64 = 4.5 in blocks of 64; 4 + 8/64 + 32/(64·256) = 4.127 with double quantisation."""
        return 8 * self.nbytes / int(np.prod(self.shape))


def quantize_nf4(weight, block_size=64, double_quant=True):
    r"""The weight in 4 bits a number: code = argmin_k |w / absmax - NF4_k|, absmax the largest |w| of its block.

    weight: a float array or Tensor of any shape, read as float32 row by row; block_size: how many numbers in a row
    share an absmax, even. The last block is filled up with zeros. The error of a number is at most 0.152 absmax,
    half the widest gap in NF4; `double_quant` adds at most what `_quantize_absmax` says.
    TypeError if the weight does not hold floats; ValueError if it is empty or not finite in float32.
    """
    weight = data(weight)
    _check(weight, block_size)
    with np.errstate(over="ignore"):  # a float64 too large for float32 is reported below
        blocks = in_rows(weight.astype(np.float32, copy=False), block_size)
    xp = array_module(blocks)
    if not xp.isfinite(blocks).all():
        raise ValueError("quantize_nf4: the weight holds NaN or infinity (or more than float32 can hold)")
    absmax = xp.abs(blocks).max(axis=1)
    codes = _nearest(blocks / divisor(absmax))
    packed = (codes[:, 0::2] << 4) | codes[:, 1::2]
    scales = _quantize_absmax(absmax) if double_quant else (absmax,)
    return QuantizedWeight(weight.shape, packed, *scales)


def _check(weight, block_size):
    if not is_array(weight) or not is_float(weight):
        raise TypeError(f"quantize_nf4 takes floats, not {getattr(weight, 'dtype', type(weight).__name__)}")
    if weight.size == 0:
        raise ValueError(f"quantize_nf4: a weight of shape {weight.shape} holds nothing")
    if not isinstance(block_size, int) or block_size < 2 or block_size % 2:
        raise ValueError(f"block_size must be a positive even number, two codes to a byte; got {block_size!r}")


def in_rows(array, width):
    """The numbers of `array` in rows of `width`, zeros after the last."""
    xp, flat = array_module(array), array.reshape(-1)
    missing = -flat.size % width
    flat = xp.concatenate([flat, xp.zeros(missing, flat.dtype)]) if missing else flat
    return flat.reshape(-1, width)


def divisor(largest):
    """What to divide each row by, (rows, 1): its largest value, or 1 where that is 0."""
    xp = array_module(largest)
    return xp.where(largest > 0, largest, xp.float32(1))[:, None]


def _nearest(x):
    """The index of the value of NF4 nearest to each x, uint8: how many midpoints of two neighbours x lies above."""
    codes = array_module(x).zeros(x.shape, np.uint8)
    for midpoint in ((NF4[1:] + NF4[:-1]) / 2).tolist():
        codes += x > midpoint
    return codes


def _quantize_absmax(absmax):
    r"""Double quantisation: absmax -> (codes int8, scales float32, mean float32), one scale for 256 of them.

        codes = round(127 (absmax - mean) / scale),   scale = max |absmax - mean| over the 256

    The mean goes first because absmax are all positive. The code is linear and signed, so that an absmax is off by at
    most scale/254; the 8-bit code of bitsandbytes is finer near 0 and coarser near ±1.
    """
    xp = array_module(absmax)
    mean = absmax.mean(dtype=np.float64, keepdims=True).astype(np.float32)
    groups = in_rows(absmax - mean, ABSMAX_GROUP)
    scale = xp.abs(groups).max(axis=1)
    codes = xp.rint(groups / divisor(scale) * 127).astype(np.int8)
    return codes.reshape(-1)[: absmax.size].copy(), scale, mean  # a copy, or the view would hold the padding too


def _dequantize_absmax(quantized):
    """The absmax of each block, (blocks,) float32. One that rounding took below 0 would turn signs: it becomes 0."""
    if quantized.absmax_scale is None:
        return quantized.absmax
    xp = array_module(quantized.absmax)
    step = xp.repeat(quantized.absmax_scale / 127, ABSMAX_GROUP)[: quantized.absmax.size]
    return xp.maximum(quantized.absmax * step + quantized.absmax_mean, 0)


def dequantize_nf4(quantized, dtype=np.float32):
    """w = absmax · NF4[code] in the shape that the weight had, in `dtype`: rounded once, from float32."""
    codes, scales = quantized.codes, (quantized.absmax, quantized.absmax_scale, quantized.absmax_mean)
    kernel = implementation("nf4_values", (codes, *scales))
    if kernel is not None:
        values = kernel(codes, *scales, _values(device_of(codes)), dtype)
        return values.reshape(-1)[: int(np.prod(quantized.shape))].reshape(quantized.shape)
    pairs = array_module(codes).asarray(_pairs(device_of(codes)))
    values = pairs[codes].view(np.float32)  # (blocks, block_size)
    values *= _dequantize_absmax(quantized)[:, None]
    values = values.astype(dtype, copy=False)
    return values.reshape(-1)[: int(np.prod(quantized.shape))].reshape(quantized.shape)


@functools.cache
def _values(device):
    """NF4 on a GPU. (Kept in ordinary memory, as a recording's is written over.)"""
    return to_device(NF4, device)


@functools.cache
def _pairs(device):
    """(256,): the two float32 values that each byte of codes stands for, as one 8-byte item: one look-up finds both."""
    byte = np.arange(256)
    pairs = np.stack([NF4[byte >> 4], NF4[byte & 15]], axis=1)  # (256, 2)
    return to_device(pairs.view(np.uint64)[:, 0], device)
