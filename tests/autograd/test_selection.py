"""Largest and smallest numbers, where they stand, sorting, and picking out."""

import numpy as np
import pytest
from helpers import assert_close, check_gradients, compare_with_torch

from lora_np.autograd import Tensor

CASES = {
    "max along": lambda x: x.max(-1).values,
    "max along, axis kept": lambda x: x.max(dim=1, keepdim=True)[0],
    "min along": lambda x: x.min(0)[0],
    "max of all": lambda x: x.max(),
    "min of all": lambda x: x.min(),
    "amax": lambda x: x.amax(dim=(0, 2)),
    "amin": lambda x: x.amin(dim=-1, keepdim=True),
    "sort": lambda x: x.sort(descending=True)[0],
    "topk": lambda x: x.topk(2).values,
    "topk, smallest of another axis": lambda x: x.topk(2, dim=0, largest=False)[0],
    "masked_fill": lambda x: x.masked_fill(x > 0.5, -2.0),
    "elementwise maximum": lambda x: x.max(x * 0.5),
}
INDEX = np.array([[[3, 0]], [[1, 1]]])


@pytest.mark.parametrize("name", CASES)
def test_gradients(xp, rng, name):
    check_gradients(CASES[name], xp.asarray(rng.standard_normal((3, 3, 4))))


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_like_torch(xp, rng, name):
    compare_with_torch(CASES[name], CASES[name], [rng.standard_normal((3, 3, 4))], xp, "float64")


@pytest.mark.parity
def test_values_from_along_an_axis_like_torch(xp, rng):
    import torch

    compare_with_torch(
        lambda x: x.gather(-1, Tensor(xp.asarray(INDEX))),
        lambda x: x.gather(-1, torch.tensor(INDEX)),
        [rng.standard_normal((2, 3, 4))],
        xp,
        "float64",
    )


def test_a_number_that_is_picked_twice_gets_both_gradients(xp):
    check_gradients(lambda x: x.gather(1, Tensor(xp.asarray([[0, 0, 2]]))), xp.asarray([[1.0, 2.0, 3.0]]))


@pytest.mark.parity
@pytest.mark.parametrize(
    "question",
    [
        lambda x: x.argmax(),
        lambda x: x.argmax(dim=0),
        lambda x: x.argmin(-1, keepdim=True),
        lambda x: x.max(dim=-1).indices,
        lambda x: x.min(1)[1],
        lambda x: x.argsort(dim=0, stable=True),
        lambda x: x.argsort(dim=-1, descending=True, stable=True),
        lambda x: x.sort(dim=1, stable=True).indices,
    ],
)
def test_places_like_torch(xp, rng, question):
    """Also where numbers are equal: the first of them is found, and they keep their order."""
    import torch

    a = rng.integers(0, 3, (3, 4, 5)).astype(float)
    if question(torch.tensor(a)).dtype == torch.int64:
        assert_close(question(Tensor(xp.asarray(a))), question(torch.tensor(a)).numpy())


def test_numpys_word_gives_numpys_answer(xp):
    x = Tensor(xp.asarray([[1.0, 3.0], [4.0, 2.0]]))
    assert_close(x.max(axis=1), np.array([3.0, 4.0]))
    assert_close(x.min(axis=0, keepdims=True), np.array([[1.0, 2.0]]))
    with pytest.raises(TypeError, match="dim and axis are two names of one argument"):
        x.sum(dim=0, axis=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.topk(4), "k should be 0 to 3, the length of axis -1, got 4"),
        (lambda x: x.gather(0, Tensor([[0, 1, 0, 1]])), r"shape \(1, 4\) does not fit a tensor of shape \(2, 3\)"),
        (lambda x: x.gather(0, Tensor([0])), "does not fit"),
        (lambda x: x.argmax(2), "axis 2 does not exist in a tensor with 2 axes"),
        (lambda x: x.max(dim=5), "axis 5 does not exist"),
    ],
)
def test_what_is_not_there_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Tensor(np.zeros((2, 3))))
