"""The layers that a small transformer needs, before any LoRA. Each is its parameters and one line of forward."""

import threading
from contextlib import contextmanager

import numpy as np

from ..autograd import functional as F
from ..autograd import ops
from ..autograd.random import generator
from ..autograd.shape_ops import embedding
from .module import Module, Parameter


class _Initialisation(threading.local):
    kind = "drawn"  # or "uninitialized" or "weightless"


_initialisation = _Initialisation()


@contextmanager
def _initialised(kind):
    before, _initialisation.kind = _initialisation.kind, kind
    try:
        yield
    finally:
        _initialisation.kind = before


def uninitialized():
    """Inside this block, new layers do not draw their weights: they hold whatever was in memory, until they are loaded.

    Drawing 135 million numbers takes a second, and touches memory that loading writes to anyway.
    """
    return _initialised("uninitialized")


def weightless():
    """Inside this block, the weights of new layers take no memory: each is one number, repeated, and cannot be written.

    A model made so has all names and shapes, and costs next to nothing: Llama-3-8B is there in 20 ms.
    """
    return _initialised("weightless")


def is_weightless():
    """Is this inside such a block?"""
    return _initialisation.kind == "weightless"


def _undrawn(shape):
    empty = _initialisation.kind == "uninitialized"
    return np.empty(shape, np.float32) if empty else np.broadcast_to(np.float32(0), shape)


def normal(shape, std, mean=0.0):
    """A float32 array of independent normal numbers from the seeded generator (`manual_seed`)."""
    if _initialisation.kind != "drawn":
        return _undrawn(shape)
    return (generator().standard_normal(shape, dtype=np.float32) * np.float32(std)) + np.float32(mean)


def uniform(shape, bound):
    """A float32 array of independent numbers, uniform in [-bound, bound), from the seeded generator."""
    if _initialisation.kind != "drawn":
        return _undrawn(shape)
    return (generator().random(shape, dtype=np.float32) * 2 - 1) * np.float32(bound)


def zeros(shape):
    """A float32 array of zeros."""
    return filled(shape, 0.0)


def filled(shape, value):
    """A float32 array that holds one value everywhere."""
    if is_weightless():
        return np.broadcast_to(np.float32(value), shape)
    return np.full(shape, value, np.float32)


class Linear(Module):
    """y = x Wᵀ + b. weight (out_features, in_features), bias (out_features,) or None.

    Both start uniform in ±1/√in_features, as PyTorch's do.
    """

    fan_in_fan_out = False
    parts: tuple[str, ...] = ()  # the names of equal parts of the output, where one product computes several things

    def __init__(self, in_features, out_features, bias=True):
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / max(1, in_features) ** 0.5
        self.weight = Parameter(uniform((out_features, in_features), bound))
        self.bias = Parameter(uniform((out_features,), bound)) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Conv1D(Module):
    """y = x W + b: GPT-2's linear layer, which stores its weight the other way round, (in_features, out_features).

    The weight starts normal with standard deviation 0.02, the bias zero.
    """

    fan_in_fan_out = True
    parts: tuple[str, ...] = ()

    def __init__(self, out_features, in_features):
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(normal((in_features, out_features), 0.02))
        self.bias = Parameter(filled(out_features, 0))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias, fan_in_fan_out=True)


class Embedding(Module):
    """y = weight[ids]. weight (num_embeddings, embedding_dim), standard normal at first."""

    fan_in_fan_out = True  # a product with one-hot rows: (in, out)

    def __init__(self, num_embeddings, embedding_dim):
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(normal((num_embeddings, embedding_dim), 1.0))

    @property
    def in_features(self):
        """As many as a one-hot row has: num_embeddings."""
        return self.num_embeddings

    @property
    def out_features(self):
        """embedding_dim."""
        return self.embedding_dim

    def forward(self, ids):
        return embedding(self.weight, ids)


class LayerNorm(Module):
    """Each row to mean 0 and variance 1, then times weight (ones at first) plus bias (zeros at first)."""

    def __init__(self, width, eps=1e-5):
        self.eps = eps
        self.weight = Parameter(filled(width, 1))
        self.bias = Parameter(filled(width, 0))

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Each row divided by its root mean square, then times weight (ones at first)."""

    def __init__(self, width, eps=1e-6):
        self.eps = eps
        self.weight = Parameter(filled(width, 1))

    def forward(self, x):
        return F.rms_norm(x, self.weight, self.eps)


class Dropout(Module):
    """In training, each value is set to 0 with probability p and the others are divided by 1 - p."""

    def __init__(self, p):
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x):
        return ops.dropout(x, self.p, self.training)
