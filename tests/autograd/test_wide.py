"""Sums of numbers in 16 bits, beside torch's."""

import numpy as np
import pytest

from lora_np import Tensor, nn
from lora_np.autograd.shape_ops import embedding

pytest.importorskip("ml_dtypes")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
CLOSE = {"float16": 2**-10, "bfloat16": 2**-7}
SUMS = {
    "sum": lambda x: x.sum(),
    "sum of columns": lambda x: x.sum(0),
    "mean": lambda x: x.mean(),
    "mean of columns": lambda x: x.mean(0),
    "norm": lambda x: x.norm(),
    "std": lambda x: x.std(0),
    "softmax": lambda x: x.softmax(0),
    "log_softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp(0),
    "added to each row": lambda x: (x + x[0]).sum(1),
    "one row often": lambda x: x[[0] * 3000].sum(1),
}


@pytest.fixture(params=CLOSE)
def dtype(request):
    return request.param


def pair(array, dtype):
    """The array in this dtype, as a Tensor and as torch's."""
    array = array.astype(nn.float_type(dtype))
    theirs = torch.tensor(array.astype(np.float32), requires_grad=True)  # torch's own sums are in float32
    return Tensor(array, requires_grad=True), theirs


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("values", ["ones", "near one"])
def test_none_stands_still(rng, name, values, dtype):
    array = np.ones((5000, 2)) if values == "ones" else 1 + rng.standard_normal((5000, 2)) / 4
    if name == "std" and values == "ones":
        array[::2] = 3  # std of equal numbers has no slope
    ours, theirs = pair(array, dtype)
    found, expected = SUMS[name](ours), SUMS[name](theirs)
    assert found.dtype == nn.float_type(dtype)
    expected_there = expected.detach().to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_allclose(found.data.astype(np.float32), expected_there, rtol=CLOSE[dtype])
    weights = np.linspace(0.5, 1, found.size, dtype=np.float32).reshape(found.shape)
    found.backward(weights.astype(found.dtype))
    expected.backward(torch.tensor(weights))
    assert ours.grad.dtype == ours.dtype
    expected = theirs.grad.numpy()
    close = 8 * CLOSE[dtype]
    np.testing.assert_allclose(ours.grad.astype(np.float32), expected, rtol=close, atol=close * np.abs(expected).max())


def test_means_of_what_adds_up_to_more_than_float16_holds():
    ours, theirs = pair(np.full((3000, 3), 60.0), "float16")
    assert ours.mean().item() == theirs.half().mean().item() == 60
    assert ours.std().item() == theirs.half().std().item() == 0


def test_a_row_that_is_looked_up_often(dtype):
    ours, theirs = pair(np.ones((4, 2)), dtype)
    ids = np.array([0] * 3000 + [1, 2])
    embedding(ours, ids).sum().backward()
    torch.nn.functional.embedding(torch.tensor(ids), theirs).sum().backward()
    np.testing.assert_allclose(ours.grad.astype(np.float32), theirs.grad.numpy(), rtol=CLOSE[dtype])
