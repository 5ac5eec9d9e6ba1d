"""Activations as layers, for models that are lists of layers."""

from ..autograd import functional as F
from .module import Module


class Identity(Module):
    """The input, as it is."""

    def forward(self, x):
        return x


class ReLU(Module):
    """max(x, 0). `inplace` changes nothing: x stays as it is."""

    def __init__(self, inplace=False):
        pass

    def forward(self, x):
        return F.relu(x)


class GELU(Module):
    """GELU, exact ("none") or by "tanh"; see `functional.gelu`."""

    def __init__(self, approximate="none"):
        self.approximate = approximate

    def forward(self, x):
        return F.gelu(x, self.approximate)


class SiLU(Module):
    """x σ(x)."""

    def __init__(self, inplace=False):
        pass

    def forward(self, x):
        return F.silu(x)


class Tanh(Module):
    """tanh x."""

    def forward(self, x):
        return x.tanh()


class Softmax(Module):
    """e^x, divided by its sum along `dim`."""

    def __init__(self, dim=-1):
        self.dim = dim

    def forward(self, x):
        return x.softmax(self.dim)


class LogSoftmax(Softmax):
    """The logarithm of `Softmax`."""

    def forward(self, x):
        return x.log_softmax(self.dim)
