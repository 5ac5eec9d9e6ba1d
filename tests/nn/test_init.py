"""New numbers for weights."""

import math

import numpy as np
import pytest

from lora_np import manual_seed, nn

SHAPE = (300, 200)
CASES = {
    "zeros": lambda init, w: init.zeros_(w),
    "ones": lambda init, w: init.ones_(w),
    "constant": lambda init, w: init.constant_(w, 0.25),
    "normal": lambda init, w: init.normal_(w, mean=0.5, std=0.02),
    "uniform": lambda init, w: init.uniform_(w, -1.0, 3.0),
    "LoRA's A": lambda init, w: init.kaiming_uniform_(w, a=math.sqrt(5)),
    "kaiming, of outputs": lambda init, w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"),
    "kaiming, normal": lambda init, w: init.kaiming_normal_(w, nonlinearity="tanh"),
    "xavier": lambda init, w: init.xavier_uniform_(w),
    "xavier, normal": lambda init, w: init.xavier_normal_(w, gain=2.0),
}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_distributed_like_torchs(name, dtype):
    import torch

    ours, theirs = nn.Parameter(np.empty(SHAPE, dtype)), torch.nn.Parameter(torch.empty(SHAPE))
    array = ours.data
    torch.manual_seed(0)
    assert CASES[name](nn.init, ours) is ours
    CASES[name](torch.nn.init, theirs)
    found, expected = ours.data, theirs.detach().numpy()
    assert found is array
    assert found.dtype == dtype
    assert ours.requires_grad
    spread = expected.std() + 1e-9
    np.testing.assert_allclose(found.mean(), expected.mean(), atol=0.02 * spread)
    np.testing.assert_allclose(found.std(), expected.std(), rtol=0.01, atol=1e-9)
    if "normal" not in name:
        np.testing.assert_allclose([found.min(), found.max()], [expected.min(), expected.max()], rtol=2e-3, atol=1e-6)


def test_they_follow_from_the_seed():
    made = []
    for _ in range(2):
        manual_seed(5)
        made.append(nn.init.normal_(nn.Parameter(np.empty(3, np.float32))).data)
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: nn.init.kaiming_uniform_(w, mode="in"), "mode should be 'fan_in' or 'fan_out', got 'in'"),
        (lambda w: nn.init.kaiming_normal_(w, nonlinearity="selu"), "nonlinearity should be leaky_relu or one of"),
        (lambda w: nn.init.xavier_uniform_(nn.Parameter(w.data[0])), r"a weight \(out, in\) was expected, got shape"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(nn.Parameter(np.zeros((2, 3))))
