"""Functions and losses under torch's names."""

import numpy as np
import pytest
from helpers import check_gradients, compare_with_torch

from lora_np import nn
from lora_np.autograd import Tensor

TARGETS = np.array([2, -100, 0, 3, 3])
LOSSES = {
    "cross_entropy": lambda F, z, t: F.cross_entropy(z, t),
    "cross_entropy, sum": lambda F, z, t: F.cross_entropy(z, t, reduction="sum"),
    "cross_entropy of each": lambda F, z, t: F.cross_entropy(z, t, reduction="none"),
    "cross_entropy, another label ignored": lambda F, z, t: F.cross_entropy(z[2:], t[2:], ignore_index=3),
    "cross_entropy, smoothed": lambda F, z, t: F.cross_entropy(z, t, label_smoothing=0.2),
    "cross_entropy of each, smoothed": lambda F, z, t: F.cross_entropy(z, t, reduction="none", label_smoothing=1.0),
    "nll_loss": lambda F, z, t: F.nll_loss(F.log_softmax(z, dim=-1), t),
    "mse_loss": lambda F, z, t: F.mse_loss(z, z * 0.5 + 1),
    "mse_loss, sum": lambda F, z, t: F.mse_loss(z, z * 0.5 + 1, reduction="sum"),
    "mse_loss of each": lambda F, z, t: F.mse_loss(z, z * 0.5 + 1, reduction="none"),
    "softmax": lambda F, z, t: F.softmax(z, dim=-1),
    "gelu": lambda F, z, t: F.gelu(z),
    "silu and relu": lambda F, z, t: F.silu(z) + F.relu(z) + F.tanh(z),
    "linear": lambda F, z, t: F.linear(z, z[:2], z[0, :2]),
    "embedding": lambda F, z, t: F.embedding(t[2:], z),
    "no dropout": lambda F, z, t: F.dropout(z, 0.5, training=False) * 2,
}
CRITERIA = {
    "CrossEntropyLoss": lambda nn, z, t: nn.CrossEntropyLoss()(z, t),
    "CrossEntropyLoss of each": lambda nn, z, t: nn.CrossEntropyLoss(ignore_index=0, reduction="none")(z[2:], t[2:]),
    "CrossEntropyLoss, smoothed": lambda nn, z, t: nn.CrossEntropyLoss(label_smoothing=0.1)(z, t),
    "NLLLoss": lambda nn, z, t: nn.NLLLoss()(z, t),
    "MSELoss": lambda nn, z, t: nn.MSELoss()(z, z * 2),
    "MSELoss, sum": lambda nn, z, t: nn.MSELoss(reduction="sum")(z, z * 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(xp, rng, name):
    targets = Tensor(xp.asarray(TARGETS))
    check_gradients(lambda z: LOSSES[name](nn.functional, z, targets), xp.asarray(rng.standard_normal((5, 4))))


@pytest.mark.parity
@pytest.mark.parametrize("name", LOSSES)
def test_like_torch(xp, rng, name):
    import torch

    compare_with_torch(
        lambda z: LOSSES[name](nn.functional, z, Tensor(xp.asarray(TARGETS))),
        lambda z: LOSSES[name](torch.nn.functional, z, torch.tensor(TARGETS)),
        [rng.standard_normal((5, 4))],
        xp,
        "float64",
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", CRITERIA)
def test_losses_as_layers_like_torch(xp, rng, name):
    import torch

    compare_with_torch(
        lambda z: CRITERIA[name](nn, z, Tensor(xp.asarray(TARGETS))),
        lambda z: CRITERIA[name](torch.nn, z, torch.tensor(TARGETS)),
        [rng.standard_normal((5, 4))],
        xp,
        "float64",
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda F: F.cross_entropy(Tensor(np.zeros((1, 2))), Tensor([0]), label_smoothing=2),
            ValueError,
            "from 0 to 1, got 2",
        ),
        (lambda F: F.cross_entropy(Tensor(np.zeros((1, 2, 3))), Tensor([[0, 1]])), ValueError, r"\(N, V\), got shape"),
        (
            lambda F: F.cross_entropy(Tensor(np.zeros((1, 2))), Tensor([-100]), label_smoothing=0.1),
            ValueError,
            "nothing to average: every target is -100",
        ),
        (lambda F: F.nll_loss(Tensor([[0.0]]), Tensor([0]), ignore_index=0), ValueError, "every target is 0"),
        (lambda F: F.nll_loss(Tensor([[0.0]]), Tensor([0]), reduction="max"), ValueError, "'mean', 'sum' or 'none'"),
        (lambda F: F.mse_loss(Tensor([0.0]), Tensor([0.0]), "max"), ValueError, "'mean', 'sum' or 'none'"),
        (lambda F: F.nll_loss(Tensor([[0.0]]), Tensor([1])), IndexError, "target 1 is out of range"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(nn.functional)


def test_dropout(rng):
    y = nn.functional.dropout(Tensor(np.ones(1000, np.float32)), 0.25)
    assert set(np.unique(y.data.round(3))) == {0.0, np.float32(1.333)}
