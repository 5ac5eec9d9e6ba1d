r"""Four bits a number with a zero point for each group: the format of GPTQ and AWQ, rounded to the nearest.

    w ≈ scale · (code - zero),    code = round(w / scale + zero), 0 to 15
    scale = (max - min) / 15,     zero = -min / scale,    of the group's weights

A group is `group_size` weights that follow one another along the inputs of one output. The zero points are float32
here, and may become any number: what is added to all weights of a group, as QA-LoRA's update is, goes into them without
any loss. (Frantar et al., 2023, for the grid; Xu et al., 2024, "QA-LoRA", section 3.3, for what zero points can take.)
"""

import numpy as np

from ..autograd import Tensor
from ..autograd.devices import array_module
from ..autograd.tensor import data
from .module import Buffer, Parameter
from .quantized import FourBitLayer, linear_of


def quantize_groups(weight, group_size=32):
    """(codes (out, in / 2) uint8, scale and zero (out, in / group_size) float32) of an array weight (out, in).

    Two codes are in a byte, the first in the high four bits. A weight is off by half a step at most, scale / 2.
    ValueError if groups do not fill the rows, or for NaN or infinity.
    """
    xp, (fan_out, fan_in) = array_module(weight), weight.shape
    if not isinstance(group_size, int) or group_size < 2 or group_size % 2 or fan_in % group_size:
        raise ValueError(f"group_size must be even and divide the layer's {fan_in} inputs, got {group_size!r}")
    groups = weight.astype(np.float32).reshape(fan_out, -1, group_size)
    if not xp.isfinite(groups).all():
        raise ValueError("quantize_groups: the weight holds NaN or infinity (or more than float32 can hold)")
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    scale = xp.where(high > low, (high - low) / 15, xp.float32(1))
    codes = xp.clip(xp.rint((groups - low) / scale), 0, 15).astype(np.uint8).reshape(fan_out, fan_in)
    return (codes[:, 0::2] << 4) | codes[:, 1::2], scale[..., 0], (-low / scale)[..., 0]


class GroupedLinear4bit(FourBitLayer):
    """A Linear or Conv1D with its weight in 4 bits, in groups with a zero point each, and frozen.

    weight_codes, weight_scale, weight_zero   as `quantize_groups` gives them, for W (out, in) in either case
    merged_into   the array that merging changes, in the place of a weight
    """

    merged_into = "weight_zero"

    def __init__(self, codes, scale, zero, bias=None, fan_in_fan_out=False):
        self.out_features, self.in_features = len(codes), 2 * codes.shape[1]
        self.group_size, self.fan_in_fan_out = self.in_features // scale.shape[1], fan_in_fan_out
        self.bias = None if bias is None else Parameter(bias, requires_grad=False)
        self.weight_codes, self.weight_scale, self.weight_zero = Buffer(codes), Buffer(scale), Buffer(zero)

    @classmethod
    def from_linear(cls, layer, group_size=32):
        """The layer for a Linear or Conv1D, which stays as it is. Errors: see `quantize_groups`."""
        weight = layer.weight.data.T if layer.fan_in_fan_out else layer.weight.data
        made = cls(*quantize_groups(weight, group_size), data(layer.bias), layer.fan_in_fan_out).train(layer.training)
        made.parts = layer.parts
        return made

    def dequantized(self):
        """W, float32, as a layer of its class stores it: (out, in), or (in, out) with `fan_in_fan_out`."""
        packed, scale, zero = (data(b) for b in (self.weight_codes, self.weight_scale, self.weight_zero))
        codes = array_module(packed).stack([packed >> 4, packed & 15], axis=-1).reshape(*scale.shape, -1)
        weight = (scale[..., None] * (codes - zero[..., None])).reshape(self.out_features, self.in_features)
        return weight.T if self.fan_in_fan_out else weight

    @property
    def weight(self):
        """A frozen float32 Tensor, made now and not kept."""
        return Tensor(self.dequantized())

    def forward(self, x):
        return linear_of(self.dequantized, x, self.bias, self.fan_in_fan_out)
