"""The layers that a small transformer needs, before any LoRA. Each is its parameters and one line of forward.

The numbers they begin with are drawn in `initial.py`.
"""

from ..autograd import functional as F
from ..autograd import ops
from ..autograd.shape_ops import embedding
from .initial import filled, normal, row_from_front, uniform, uninitialized  # noqa: F401 (imported from here before)
from .module import Module, Parameter


class Linear(Module):
    """y = x Wᵀ + b. weight (out_features, in_features), bias (out_features,) or None.

    Both start uniform in ±1/√in_features, as PyTorch's do.
    """

    fan_in_fan_out = False
    parts: dict[str, int] = {}  # {name: width} of the parts of the output, where one product computes several things

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
    parts: dict[str, int] = {}

    def __init__(self, out_features, in_features):
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(normal((in_features, out_features), 0.02))
        self.bias = Parameter(filled(out_features, 0))

    def forward(self, x):
        return F.linear(x, self.weight, self.bias, fan_in_fan_out=True)


class Embedding(Module):
    """y = weight[ids]. weight (num_embeddings, embedding_dim), standard normal; row padding_idx is 0, untrained."""

    fan_in_fan_out = True  # a product with one-hot rows: (in, out)

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = row_from_front(padding_idx, num_embeddings)
        self.weight = Parameter(normal((num_embeddings, embedding_dim), 1.0, zero_row=self.padding_idx))

    @property
    def in_features(self):
        """As many as a one-hot row has: num_embeddings."""
        return self.num_embeddings

    @property
    def out_features(self):
        """embedding_dim."""
        return self.embedding_dim

    def forward(self, ids):
        return embedding(self.weight, ids, self.padding_idx)


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
