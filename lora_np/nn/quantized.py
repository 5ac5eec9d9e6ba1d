"""QLoRA's frozen layer: its weight in 4 bits a number, turned back into float32 each time it is used.

Nothing here is trained: LoRA's A and B beside such a layer stay in float32 and get their gradients through it.
(Dettmers et al., 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", eq. 5 and 6; the number format is in `nf4.py`.)
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from ..autograd import Tensor, dispatch
from ..autograd import functional as F
from ..autograd.devices import to_device, to_numpy
from ..autograd.lazy import Lazy
from ..autograd.tensor import data, needs_grad, record
from .layers import Conv1D, Linear
from .module import Buffer, Module, Parameter
from .nf4 import QuantizedWeight, dequantize_nf4, quantize_nf4

SKIP = ("lm_head", "score")  # heads: for tokens, for classes


def linear_4bit(x, quantized, bias=None, fan_in_fan_out=False):
    r"""y = x Wᵀ + b with W in 4 bits. x (..., in), W (out, in) or (in, out) with `fan_in_fan_out` -> y (..., out).

    Gradients: dx = dy W (..., in); db = Σ_rows dy (out,) if the bias is trained; none for W. Saved: the codes, which
    the layer holds anyway. W in float32 lives for one product; the backward makes it anew to save memory.
    """
    if dispatch.float32_or_16_bits([data(x)]):
        return F.linear(x, lazy_weight(quantized), bias, fan_in_fan_out)
    return linear_of(lambda: dequantize_nf4(quantized), x, bias, fan_in_fan_out)


def lazy_weight(quantized):
    """The weight as a `Lazy` array: made where it is used, in the dtype of what it is multiplied with."""
    return Lazy(lambda dtype: dequantize_nf4(quantized, dtype), quantized.shape, np.dtype(np.float32))


def linear_of(make, x, bias=None, fan_in_fan_out=False):
    """`linear_4bit` for a frozen W that `make()` gives, in each direction anew."""
    needs, shape = needs_grad(x, bias), x.shape
    y = F.linear(data(x), make(), data(bias), fan_in_fan_out).data

    def backward(dy):
        rows = dy.reshape(-1, dy.shape[-1])
        dx = None
        if needs[0]:
            w = make()
            dx = dispatch.matmul(rows, w.T if fan_in_fan_out else w).reshape(shape)
        return dx, rows.sum(axis=0) if needs[1] else None

    return record(y, (x, bias), backward)


class FourBitLayer(Module):
    """A frozen linear layer whose weight is in 4 bits. Abstract: `Linear4bit`, and `GroupedLinear4bit` in `grouped.py`.

    `weight` is a new Tensor each time: what is written to it changes nothing here.
    """

    parts: dict[str, int] = {}

    @property
    def packed(self):
        """How many numbers the weight has."""
        return self.in_features * self.out_features

    def unpacked_weight(self, dtype):
        """What stands for the weight as a file has it, in `dtype`: NumPy makes the array where it is asked for one."""
        shape = (self.out_features, self.in_features)
        return Unpacked(self, shape[::-1] if self.fan_in_fan_out else shape, np.dtype(dtype))


class Unpacked(NamedTuple):
    """The weight of a 4-bit layer, of this shape and dtype: made by `np.asarray`, and not kept."""

    layer: FourBitLayer
    shape: tuple[int, int]
    dtype: np.dtype

    @property
    def nbytes(self):
        """The bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None):
        return to_numpy(self.layer.weight.data).astype(self.dtype if dtype is None else dtype)


class Linear4bit(FourBitLayer):
    """A Linear or Conv1D with its weight in NF4 and frozen; its state is the arrays of a `QuantizedWeight`.

    To load a saved state, quantise a model of the same shape with the same options first.
    """

    def __init__(self, quantized, bias=None, fan_in_fan_out=False):
        fan_in, fan_out = quantized.shape if fan_in_fan_out else quantized.shape[::-1]
        self.in_features, self.out_features, self.fan_in_fan_out = fan_in, fan_out, fan_in_fan_out
        self.bias = None if bias is None else Parameter(bias, requires_grad=False)
        self.put(quantized)

    def put(self, quantized):
        """Have this `QuantizedWeight` in the place of the weight."""
        self.weight_codes, self.weight_absmax = Buffer(quantized.codes), Buffer(quantized.absmax)
        double = quantized.absmax_scale is not None
        self.weight_absmax_scale = Buffer(quantized.absmax_scale) if double else None
        self.weight_absmax_mean = Buffer(quantized.absmax_mean) if double else None

    @classmethod
    def from_linear(cls, layer, block_size=64, double_quant=True, device=None):
        """The 4-bit layer for a Linear or Conv1D, which stays as it is. Errors: see `quantize_nf4`.

        device: where the weight is put into 4 bits and stays; None: where it is.
        """
        weight = data(layer.weight) if device is None else to_device(data(layer.weight), device)
        quantized = quantize_nf4(weight, block_size, double_quant)
        made = cls(quantized, data(layer.bias), layer.fan_in_fan_out).train(layer.training)
        made.parts = layer.parts
        return made

    @property
    def quantized(self):
        """The weight as a `QuantizedWeight`, of the arrays where they now are."""
        sizes = (self.out_features, self.in_features)
        scales = (data(self.weight_absmax), data(self.weight_absmax_scale), data(self.weight_absmax_mean))
        return QuantizedWeight(sizes[::-1] if self.fan_in_fan_out else sizes, data(self.weight_codes), *scales)

    def quantized_like(self, weight):
        """A weight of this layer's shape, quantised as its own is: a `QuantizedWeight`. Errors: see `quantize_nf4`."""
        own = self.quantized
        return quantize_nf4(weight, 2 * own.codes.shape[1], own.absmax_scale is not None)

    @property
    def weight(self):
        """A frozen float32 Tensor, made now and not kept."""
        return Tensor(dequantize_nf4(self.quantized))

    @property
    def operand(self):
        """The weight as products take it on a GPU, see `lazy_weight`."""
        return lazy_weight(self.quantized)

    def forward(self, x):
        return linear_4bit(x, self.quantized, self.bias, self.fan_in_fan_out)


def quantize_model(model, skip=SKIP, block_size=64, double_quant=True, group_size=None, device=None):
    """Put a Linear4bit in the place of every Linear and Conv1D of the model; returns the model.

    group_size: with a number, a GroupedLinear4bit with such groups instead, in which QA-LoRA can be merged.
    skip: names of layers, or of what holds them, to leave alone: whole dotted names or their ends after a dot. The
    output head is left alone because its errors reach the logits directly, and it often shares the embedding's weight;
    a classifier's is new, and has to be trained.
    device: a GPU on which each weight is put into 4 bits, one after another, and stays; the rest of the model is left
    where it is. So a model that is larger than the GPU's memory in 16 bits can be put there in 4.
    Nothing changes unless all of it can be done. ValueError, with the layer's name, for a weight that cannot be
    quantised, for a name in `skip` that matches nothing, and for a model that is a single layer (see `from_linear`).
    """
    skipped = _skipped(model, skip)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (Linear, Conv1D)) and id(m) not in skipped}
    wrappers = [m for m in model.modules() if type(m).held is not Module.held]  # among them layers with adapters
    wrapped = {id(vars(wrapper).get("base_layer")) for wrapper in wrappers}
    adapted = [name for name, layer in layers.items() if id(layer) in wrapped]
    if adapted:
        raise ValueError(f"{adapted[0]} has an adapter beside it: quantise the model first, then adapt it")
    if "" in layers:
        raise ValueError("quantize_model replaces the layers in a model; for one layer use Linear4bit.from_linear")
    make = functools.partial(Linear4bit.from_linear, block_size=block_size, double_quant=double_quant, device=device)
    if group_size is not None:
        from .grouped import GroupedLinear4bit  # which imports this module

        make = functools.partial(GroupedLinear4bit.from_linear, group_size=group_size)
    new = {}
    for name, layer in layers.items():
        try:
            new[name] = make(layer)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for name, layer in new.items():
        model.set_submodule(name, layer)
    return model


def _skipped(model, skip):
    """The ids of the modules that `skip` names and of all below them."""
    found = set()
    for end in skip:
        named = [module for name, module in model.named_modules() if f".{name}".endswith(f".{end}")]
        if not named and end not in SKIP:
            raise ValueError(f"quantize_model: skip names {end!r}, but no part of the model has that name")
        found.update(id(part) for module in named for part in module.modules())
    return found


def memory_footprint(model):
    """What the parameters and buffers take, in bytes, shared ones once; gradients and activations not counted."""
    return sum(array.nbytes for array in model.state_dict().values())
