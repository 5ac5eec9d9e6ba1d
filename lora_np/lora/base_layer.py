"""A frozen layer's arrays: read as (out, in) however they are stored, and put in its place."""

import copy
from collections import Counter

from .. import nn
from ..autograd import backend


def oriented(layer, weight):
    """A weight of `layer` as (out, in), or back again: the same array if it is stored so, else its transpose."""
    return weight.T if layer.fan_in_fan_out else weight


def arrays_of(layer):
    """(weight, bias) as they are stored; bias is None if there is none."""
    bias = getattr(layer, "bias", None)
    return layer.weight.data, None if bias is None else bias.data


def put_arrays(layer, weight, bias):
    """Make these arrays the layer's, on the device and in the dtype that its own have; None leaves one as it is."""
    for p, array in ((layer.weight, weight), (getattr(layer, "bias", None), bias)):
        if array is not None:
            p.data = backend.to_device(array, p.device).astype(p.dtype, copy=False)


def with_arrays(layer, weight, bias):
    """A layer like this one that computes with other arrays; None keeps a Parameter, not a copy of it."""
    new = copy.copy(layer)
    new.weight = nn.Parameter(layer.weight.data, requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    put_arrays(new, weight, bias)
    return new


def shared_weights(model):
    """The ids of the Parameters that several parts of the model hold, such as a head tied to the embedding."""
    held = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {p for p, times in held.items() if times > 1}
