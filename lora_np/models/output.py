"""What a language model returns, and how labels are lined up with it."""

import numpy as np

from ..autograd import functional as F
from ..autograd.backend import to_numpy
from ..autograd.tensor import data
from ..nn import Linear


class CausalLMOutput:
    """The result of a language model: `.loss` (a Tensor, or None without labels) and `.logits` (B, T, V).

    The loss is computed without holding the logits (`functional.linear_cross_entropy`). The logits are computed
    when somebody first asks for them: training never does, and saves B·T·V numbers.
    """

    def __init__(self, hidden, head, targets=None):
        self.hidden, self.head, self._logits = hidden, head, None
        if targets is None:
            self.loss = None
        elif isinstance(head, Linear) and head.bias is None:
            self.loss = F.linear_cross_entropy(hidden, head.weight, targets)
        else:  # a head of another kind, such as one with an adapter
            self.loss = F.cross_entropy(self.logits, targets)

    @property
    def logits(self):
        if self._logits is None:
            self._logits = self.head(self.hidden)
        return self._logits


def shift_labels(labels, shape):
    """labels (B, T) -> targets (B, T): target t is label t + 1, and the last position has none (-100)."""
    labels = to_numpy(data(labels))
    if labels.shape != shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit input_ids of shape {shape}")
    if shape[1] < 2:
        raise ValueError("labels need at least two tokens in a row: the first has nothing before it to predict it from")
    targets = np.full(shape, -100, np.int64)
    targets[:, :-1] = labels[:, 1:]
    return targets
