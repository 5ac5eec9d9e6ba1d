"""New numbers for a weight, under the names of `torch.nn.init`. Each writes into the tensor and returns it.

The numbers follow from `manual_seed`, and are others than torch's. A weight is (out, in).
"""

import math

from ..autograd import Tensor, no_grad
from ..autograd.random import generator

GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2)}


@no_grad
def constant_(tensor, val):
    """One number everywhere."""
    return tensor.fill_(val)


def zeros_(tensor):
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor):
    """Ones."""
    return constant_(tensor, 1.0)


@no_grad
def normal_(tensor, mean=0.0, std=1.0):
    """Normal, with this mean and standard deviation."""
    return _put(tensor, generator().standard_normal(tensor.shape) * std + mean)


@no_grad
def uniform_(tensor, a=0.0, b=1.0):
    """Uniform in [a, b)."""
    return _put(tensor, generator().random(tensor.shape) * (b - a) + a)


def kaiming_uniform_(tensor, a=0.0, mode="fan_in", nonlinearity="leaky_relu"):
    """Uniform in ±gain·√(3 / fan), so that the size of activations is kept (He et al., 2015).

    The gain of leaky_relu is √(2 / (1 + a²)): with a = √5 the bound is 1/√fan_in, LoRA's A.
    """
    bound = _gain(nonlinearity, a) * math.sqrt(3 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor, a=0.0, mode="fan_in", nonlinearity="leaky_relu"):
    """Normal, with the standard deviation gain / √fan; see `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def xavier_uniform_(tensor, gain=1.0):
    """Uniform in ±gain·√(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / (_fan(tensor, "fan_in") + _fan(tensor, "fan_out")))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor, gain=1.0):
    """Normal, with the standard deviation gain·√(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / (_fan(tensor, "fan_in") + _fan(tensor, "fan_out"))))


def _gain(nonlinearity, a):
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + a**2))
    if nonlinearity not in GAINS:
        raise ValueError(f"nonlinearity should be leaky_relu or one of {', '.join(GAINS)}, got {nonlinearity!r}")
    return GAINS[nonlinearity]


def _fan(tensor, mode):
    """How many inputs ("fan_in") or outputs a weight (out, in) has."""
    if tensor.ndim != 2:
        raise ValueError(f"a weight (out, in) was expected, got shape {tensor.shape}")
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode should be 'fan_in' or 'fan_out', got {mode!r}")
    return max(1, tensor.shape[1 if mode == "fan_in" else 0])


def _put(tensor, numbers):
    """Write an array from the host into a tensor, wherever that is."""
    return tensor.copy_(Tensor(numbers))
