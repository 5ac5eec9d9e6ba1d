"""Shapes under torch's names."""

import numpy as np
import pytest
from helpers import check_gradients, compare_with_torch

from lora_np.autograd import Tensor
from lora_np.autograd.arrangement import cat, stack

CASES = {
    "view": lambda x: x.view(3, -1),
    "view of a tuple": lambda x: x.view((6, 4)),
    "two axes exchanged": lambda x: x.transpose(1, 2),
    "two axes exchanged, from the end": lambda x: x.transpose(-1, -3),
    "rows and columns": lambda x: x[0].transpose(0, 1),
    "permute": lambda x: x.permute(2, 0, 1),
    "permute with a tuple": lambda x: x.permute((1, 0, 2)),
    "T": lambda x: x[1].T,
    "t": lambda x: x[1].t(),
    "mT": lambda x: x.mT,
    "flatten": lambda x: x.flatten(),
    "flatten from the second": lambda x: x.flatten(1),
    "flatten the first two": lambda x: x.flatten(0, 1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "unsqueeze at the end": lambda x: x.unsqueeze(-1),
    "unsqueeze inside": lambda x: x.unsqueeze(2),
    "squeeze": lambda x: x[:, :1].squeeze(),
    "squeeze one": lambda x: x[:, :1].squeeze(1),
    "squeeze one that is longer": lambda x: x.squeeze(0),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1),
    "expand in front": lambda x: x.expand(3, *x.shape),
    "expand_as": lambda x: x[:1].expand_as(x),
    "split": lambda x: x.split(3, dim=2)[0] * 2,
    "split, the rest": lambda x: x.split(3, dim=2)[1],
    "split by lengths": lambda x: x.split([1, 2], dim=1)[1],
    "chunk": lambda x: x.chunk(2, dim=-1)[1],
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.transpose(0, 2).contiguous().view(-1),
    "rows": lambda x: [row * 2 for row in x][1],
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(xp, rng, name):
    check_gradients(CASES[name], xp.asarray(rng.standard_normal((2, 3, 4))))


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_like_torch(xp, rng, name):
    compare_with_torch(CASES[name], CASES[name], [rng.standard_normal((2, 3, 4))], xp, "float64")


@pytest.mark.parity
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("name", ["stack", "cat"])
def test_several_in_one_like_torch(xp, rng, name, dim):
    import torch

    ours = {"stack": stack, "cat": cat}[name]
    dim = min(dim, 1) if name == "cat" else dim
    arrays = [rng.standard_normal((2, 3)) for _ in range(3)]
    compare_with_torch(lambda *xs: ours(xs, dim), lambda *xs: getattr(torch, name)(xs, dim=dim), arrays, xp, "float64")
    check_gradients(lambda *xs: ours(xs, dim), *map(xp.asarray, arrays))


def test_a_copy_is_a_copy(xp):
    x = Tensor(xp.zeros(3))
    y = x.clone()
    x.data += 1
    assert float(y.data.sum()) == 0


def test_contiguous_tensors_are_left_as_they_are(xp):
    x = Tensor(xp.zeros((2, 3)))
    assert x.contiguous() is x
    assert x.is_contiguous()
    assert not x.T.is_contiguous()
    assert x.T.contiguous().is_contiguous()


def test_lengths_of_splits(xp):
    x = Tensor(xp.zeros((7, 2)))
    assert [len(part) for part in x.split(3)] == [3, 3, 1]
    assert [len(part) for part in x.chunk(3)] == [3, 3, 1]
    assert [len(part) for part in x.chunk(9)] == [1] * 7


def test_the_rows_of_a_single_number_are_refused():
    with pytest.raises(TypeError, match=r"a single number cannot be iterated over: .item\(\) is the number"):
        list(Tensor(3.0))
    assert list(Tensor(np.zeros((0, 2)))) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x[0].mT, ValueError, r"mT exchanges the last two axes, and a tensor of shape \(3,\)"),
        (lambda x: x.view(np.float64), TypeError, r"view takes the lengths of a shape, got .*\.to\(dtype\)"),
        (lambda x: x.split([1, 3], dim=1), ValueError, r"lengths \[1, 3\] should add up to 3, the length of axis 1"),
        (lambda x: x.unsqueeze(4), ValueError, "axis 4 does not exist"),
        (lambda x: x.transpose(0, 2), ValueError, "does not exist in a tensor with 2 axes"),
        (lambda x: x.expand(5, 3), ValueError, r"shape \(2, 3\) cannot become \(5, 3\)"),
        (lambda x: x.expand(3), ValueError, r"shape \(2, 3\) cannot become \(3,\)"),
        (lambda x: cat([]), ValueError, "cat takes a list of tensors, at least one, got none"),
        (lambda x: stack(x), ValueError, "stack takes a list of tensors, at least one, got one"),
        (lambda x: cat([x, x[0]]), ValueError, r"equal but for axis 0, got \(2, 3\), \(3,\)"),
        (lambda x: cat([x, x], dim=2), ValueError, "axis 2 does not exist"),
        (lambda x: stack([x, x[:1]]), ValueError, r"stack: shapes should be equal, got \(2, 3\), \(1, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor(np.zeros((2, 3))))
