"""The seam for adapters that are more than s·B A beside a linear layer. Plain LoRA never comes here.

A Variant belongs to one adapter of one layer (`layer.variants[name]`). It says what the adapter adds to the layer's
result, what merging makes of the weight and the bias, and what else is trained and saved.
"""

from .. import nn
from ..autograd import functional as F


class Variant:
    """Abstract. `update` and `merged` are asked for instead of what `LoraLinear` does."""

    def update(self, layer, name, x, base):
        """The Tensor to add to the base layer's result `base` for the input `x`."""
        raise NotImplementedError

    def merged(self, layer, name, weight, bias):
        """(weight (out, in), bias) once this adapter is merged into them."""
        raise NotImplementedError

    def parameters_of(self, layer, name):
        """{name in a file: Parameter}: what is trained besides A and B."""
        return {}

    def saved_arrays(self, layer, name, arrays):
        """The arrays that go into a file, given those of the parameters."""
        return arrays


class BranchBias(Variant):
    """`lora_bias`: y = base(x) + s·(B(A(x)) + c), with a bias c (out,) on B that starts at zero."""

    def __init__(self, layer, name):
        if layer.base_layer.bias is None:
            raise ValueError("lora_bias needs layers with a bias: merging would have nowhere to put it")
        B = layer.lora_B[name]
        B.bias = nn.Parameter(B.weight.data[:, 0] * 0)

    def update(self, layer, name, x, base):
        h = F.linear(layer.lora_dropout[name](x), layer.lora_A[name].weight)
        return F.linear(h, layer.lora_B[name].weight, layer.lora_B[name].bias) * layer.scaling[name]

    def merged(self, layer, name, weight, bias):
        return weight + layer.delta_weight(name), bias + layer.lora_B[name].bias.data * layer.scaling[name]

    def parameters_of(self, layer, name):
        return {"lora_B.bias": layer.lora_B[name].bias}
