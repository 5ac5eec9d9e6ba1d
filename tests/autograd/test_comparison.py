"""Comparing number by number, and logic on the answers."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np.autograd import Tensor

A, B = np.array([[1.0, 2.0, np.nan], [0.0, -1.0, np.inf]]), np.array([[1.0, 3.0, 0.0], [0.0, -2.0, np.inf]])


@pytest.mark.parametrize(
    "ask",
    [
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a > 0,
        lambda a, b: a >= b[0],
        lambda a, b: a == b,
        lambda a, b: a != b,
        lambda a, b: 1 == a,  # noqa: SIM300
        lambda a, b: 1.5 > b,  # noqa: SIM300
        lambda a, b: (a < b) & ~(b == 3),
        lambda a, b: (a < b) | (b < 0),
        lambda a, b: (a < b) ^ (b < 0),
        lambda a, b: b[0] // 2,  # infinity makes NaN in NumPy only
        lambda a, b: b[0] % 2,
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_as_numpy_does(xp, ask):
    found = ask(Tensor(xp.asarray(A), requires_grad=True), Tensor(xp.asarray(B)))
    assert isinstance(found, Tensor)
    assert not found.requires_grad
    assert_close(found, ask(A, B))


def test_beside_an_array_of_numpy():
    assert_close(Tensor(A) == B, B == A)
    assert_close(np.float64(1) == Tensor(A), A == 1)


@pytest.mark.parametrize("other", [None, "text", [1.0], object()])
def test_what_is_no_number_is_not_equal(other):
    x = Tensor([1.0])
    assert (x == other) is False
    assert (x != other) is True
    with pytest.raises(TypeError):
        x < other  # noqa: B015


def test_tensors_can_still_be_keys():
    x, y = Tensor([1.0, 2.0]), Tensor([1.0, 2.0])
    assert {x: 1, y: 2}[x] == 1
    assert x in [x, y]


def test_questions_about_all_numbers():
    x = Tensor(A)
    assert x.isnan().any() and not x.isnan().all()  # noqa: PT018
    assert x.isinf().sum() == 1
    assert x.isfinite().tolist() == [[True, True, False], [True, True, False]]
    assert x.isfinite().all(dim=0).tolist() == [True, True, False]
    assert (x > 0).any(axis=1, keepdims=True).tolist() == [[True], [True]]


def test_close_and_equal():
    x = Tensor([1.0, 2.0])
    assert x.allclose(x + 1e-7)
    assert not x.allclose(x + 1)
    assert not Tensor([np.nan]).allclose(Tensor([np.nan]))
    assert Tensor([np.nan]).allclose(Tensor([np.nan]), equal_nan=True)
    assert x.isclose(Tensor([1.0, 3.0])).tolist() == [True, False]
    assert x.equal(Tensor([1.0, 2.0]))
    assert not x.equal(Tensor([1.0]))


def test_contents():
    ids = Tensor([[5, 7]])
    assert 7 in ids
    assert 6 not in ids
    assert "7" not in ids
    assert None not in ids
