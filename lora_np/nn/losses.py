"""Losses as layers."""

from . import functional as F
from .module import Module


class CrossEntropyLoss(Module):
    """criterion(logits (N, V), targets (N,)); see `functional.cross_entropy`."""

    def __init__(self, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, input, target):  # noqa: A002  torch's name
        return F.cross_entropy(input, target, self.ignore_index, self.reduction, self.label_smoothing)


class NLLLoss(Module):
    """criterion(logarithms of probabilities (N, V), targets (N,)); see `functional.nll_loss`."""

    def __init__(self, ignore_index=-100, reduction="mean"):
        self.ignore_index, self.reduction = ignore_index, reduction

    def forward(self, input, target):  # noqa: A002  torch's name
        return F.nll_loss(input, target, self.ignore_index, self.reduction)


class MSELoss(Module):
    """criterion(input, target): the mean of (input - target)²."""

    def __init__(self, reduction="mean"):
        self.reduction = reduction

    def forward(self, input, target):  # noqa: A002  torch's name
        return F.mse_loss(input, target, self.reduction)
