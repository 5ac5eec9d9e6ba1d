r"""DoRA: the length of each row of W is learned apart from its direction. (Liu et al., 2024, eq. 5.)

    W' = (m / n) ∘ (W + s·B A),    n = the length of each row of W + s·B A

m (out,) is trained and starts at n, so training starts at the base model. For the gradient n counts as a constant,
which the paper found to lose nothing (its section 4.3).
"""

import numpy as np

from .. import nn
from ..autograd import backend
from ..autograd import functional as F
from .adapted import Matrix
from .variants import Variant


class Dora(Variant):
    """One DoRA adapter of a linear layer. Its magnitudes m are `layer.lora_magnitude_vector[name].weight`."""

    def __init__(self, layer, name):
        if not hasattr(layer, "lora_magnitude_vector"):
            layer.lora_magnitude_vector = nn.ModuleDict()
        layer.lora_magnitude_vector[name] = Matrix(self._row_lengths(layer, name))

    def update(self, layer, name, x, base):
        """y = base(x) + (m/n - 1)·(base(x) - bias) + (m/n)·s·B A x; dropout acts on both added terms."""
        ratio = layer.lora_magnitude_vector[name].weight / self._row_lengths(layer, name)  # (out,)
        layer_dropout = layer.lora_dropout[name]
        if layer_dropout.p and layer_dropout.training:
            x = layer_dropout(x)
            linear = F.linear(x, layer.base_layer.weight, None, layer.base_layer.fan_in_fan_out)
        else:
            linear = base if layer.base_layer.bias is None else base - layer.base_layer.bias
        return (ratio - 1.0) * linear + ratio * layer.branch(name, x)

    def merged(self, layer, name, weight, bias):
        base = layer.oriented(layer.base_layer.weight.data).astype(weight.dtype, copy=False)
        adapted = base + layer.delta_weight(name)  # without what other adapters have put into `weight`
        ratio = layer.lora_magnitude_vector[name].weight.data / _lengths(adapted)
        return weight + (ratio[:, None] * adapted - base), bias

    def parameters_of(self, layer, name):
        return {"lora_magnitude_vector": layer.lora_magnitude_vector[name].weight}

    def _row_lengths(self, layer, name):
        """n (out,): an array, so no gradient flows into it."""
        return _lengths(layer.oriented(layer.base_layer.weight.data) + layer.delta_weight(name))


def _lengths(weight):
    """The Euclidean length of each row; at least the smallest number, so that a row of zeros is not divided by zero."""
    xp = backend.array_module(weight)
    return xp.maximum(xp.sqrt((weight * weight).sum(axis=1)), np.finfo(weight.dtype).tiny)
