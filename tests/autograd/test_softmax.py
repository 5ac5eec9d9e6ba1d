"""Softmax, its logarithm, and the logarithm of a sum of exponentials."""

import numpy as np
import pytest
from helpers import assert_close, check_gradients, compare_with_torch

from lora_np.autograd import Tensor

CASES = {
    "softmax": lambda x: x.softmax(-1),
    "softmax of the first axis": lambda x: x.softmax(dim=0),
    "log_softmax": lambda x: x.log_softmax(-1),
    "log_softmax of the middle axis": lambda x: x.log_softmax(dim=1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "logsumexp, axis kept": lambda x: x.logsumexp(0, keepdim=True),
    "probabilities of chosen ones": lambda x: x.log_softmax(-1)[:, 1].exp(),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(xp, rng, name):
    check_gradients(CASES[name], xp.asarray(rng.standard_normal((2, 3, 4))))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_like_torch(xp, rng, name, dtype):
    compare_with_torch(CASES[name], CASES[name], [rng.standard_normal((2, 3, 4)) * 5], xp, dtype)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_large_numbers_do_not_overflow(xp, name):
    found = getattr(Tensor(xp.asarray([[1e4, 1e4, -1e4]], "float32")), name)(-1)
    expected = {"softmax": [[0.5, 0.5, 0]], "log_softmax": [[-np.log(2), -np.log(2), -2e4]], "logsumexp": [1e4]}
    assert_close(found, np.array(expected[name]), rtol=1e-4)


def test_a_dtype_is_turned_into_before(xp):
    half = Tensor(xp.ones((2, 3), "float16"), requires_grad=True)
    y = half.softmax(-1, dtype=np.float32)
    y.sum().backward()
    assert (y.dtype, half.grad.dtype) == (np.float32, np.float16)


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"softmax needs floating-point numbers, not int64: x.float\(\).softmax"):
        Tensor([1, 2]).softmax(-1)


def test_the_input_is_left_as_it_was(xp, rng):
    x = xp.asarray(rng.standard_normal((2, 3)))
    before = x.copy()
    for name in ("softmax", "log_softmax", "logsumexp"):
        getattr(Tensor(x), name)(0)
    assert (x == before).all()
