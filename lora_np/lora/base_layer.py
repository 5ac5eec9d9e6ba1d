"""A frozen layer's weight and bias as arrays: read, turned to (out, in), and replaced."""

import copy
from collections import Counter

from .. import nn
from ..autograd.devices import to_device
from .types import Array, Layer


def oriented(layer: Layer, weight: Array) -> Array:
    """A weight turned from how `layer` stores it to (out, in), or back: itself, or its transpose for (in, out)."""
    return weight.T if layer.fan_in_fan_out else weight


def arrays_of(layer: Layer) -> tuple[Array, Array | None]:
    """(weight, bias) as they are stored; bias is None if there is none."""
    bias = getattr(layer, "bias", None)
    return layer.weight.data, None if bias is None else bias.data


def put_arrays(layer: Layer, weight: Array | None, bias: Array | None) -> None:
    """Give the layer these arrays, on the device and in the dtype of those it has; None leaves one as it is."""
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None:
            p = getattr(layer, name)
            p.data = to_device(array, p.device).astype(p.dtype, copy=False)


def with_arrays(layer: Layer, weight: Array | None, bias: Array | None) -> Layer:
    """A layer like this one that computes with these arrays; where one is None, with the layer's own."""
    new = copy.copy(layer)
    new.weight = nn.Parameter(layer.weight.data, requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    put_arrays(new, weight, bias)
    return new


def shared_weights(model: nn.Module) -> set[int]:
    """The ids of the Parameters that several parts of the model hold, such as a head tied to the embedding."""
    held = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {p for p, times in held.items() if times > 1}
