"""Functions under the names and arguments of `torch.nn.functional`: what is typed beside a model."""

from ..autograd import Tensor, ops, shape_ops
from ..autograd import functional as F
from ..autograd.functional import gelu, linear, relu, silu
from ..autograd.softmax import log_softmax, softmax
from ..autograd.tensor import data

__all__ = [
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "relu",
    "silu",
    "softmax",
    "tanh",
]


def cross_entropy(input, target, ignore_index=-100, reduction="mean", label_smoothing=0.0):  # noqa: A002  torch's name
    """-ln softmax(input)[target] of each row: their mean ("mean"), their sum, or each ("none", 0 where it is ignored).

    input (N, V), target (N,) integers in [0, V) or `ignore_index`. Logits (B, T, V): `logits.view(-1, V)` first.
    label_smoothing: the part ε of each target that all V classes share, (1 - ε)·(the above) - ε·mean ln softmax(input).
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is a part of each target, from 0 to 1, got {label_smoothing}")
    if reduction == "mean" and not label_smoothing:
        return F.cross_entropy(_rows(input), target, ignore_index)
    logs = log_softmax(_rows(input), -1)
    if label_smoothing:
        logs = (1 - label_smoothing) * logs + label_smoothing * logs.mean(-1, keepdim=True)
    return nll_loss(logs, target, ignore_index, reduction)


def nll_loss(input, target, ignore_index=-100, reduction="mean"):  # noqa: A002  torch's name
    """-input[target] of each row, input (N, V) being logarithms of probabilities; see `cross_entropy`."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction should be 'mean', 'sum' or 'none', got {reduction!r}")
    counted = Tensor(data(target) != ignore_index)
    places = Tensor(data(target) * counted.data)
    shape_ops.check_ids(places.data, input.shape[-1], "target")
    each = -_rows(input).gather(-1, places.unsqueeze(-1)).squeeze(-1).masked_fill(~counted, 0.0)
    if reduction == "none":
        return each
    count = int(counted.sum()) if reduction == "mean" else 1
    if not count:
        raise ValueError(f"the loss has nothing to average: every target is {ignore_index}, the value that is ignored")
    return each.sum() * (1 / count)


def _rows(x):
    if x.ndim != 2:
        raise ValueError(f"input should be (N, V), got shape {x.shape}: reshape it, logits.view(-1, logits.size(-1))")
    return x


def mse_loss(input, target, reduction="mean"):  # noqa: A002  torch's name
    """(input - target)²: its mean, its sum, or for each number ("none")."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction should be 'mean', 'sum' or 'none', got {reduction!r}")
    squares = (input - target) ** 2
    return squares if reduction == "none" else getattr(squares, reduction)()


def embedding(input, weight, padding_idx=None):  # noqa: A002  torch's name
    """weight[input]: one row of weight (V, C) for each id. Row padding_idx gets no gradient."""
    return shape_ops.embedding(weight, input, padding_idx)


def dropout(input, p=0.5, training=True):  # noqa: A002  torch's name
    """Each number 0 with probability p, the others divided by 1 - p; outside of training the input itself."""
    return ops.dropout(input, p, training)


def tanh(input):  # noqa: A002  torch's name
    """tanh of each number."""
    return ops.tanh(input)
