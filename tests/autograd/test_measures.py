"""Absolute values, norms, bounds, spread."""

import math

import numpy as np
import pytest
from helpers import assert_close, check_gradients, compare_with_torch

from lora_np.autograd import Tensor

CASES = {
    "abs": lambda x: x.abs(),
    "abs as Python writes it": lambda x: abs(x),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp from below": lambda x: x.clamp(min=0.0),
    "clip from above": lambda x: x.clip(max=0.3),
    "norm": lambda x: x.norm(),
    "norm of an axis": lambda x: x.norm(dim=-1),
    "norm of two axes, kept": lambda x: x.norm(dim=(0, 2), keepdim=True),
    "Frobenius norm": lambda x: x.norm("fro"),
    "sum of absolute values": lambda x: x.norm(1, dim=0),
    "largest absolute value": lambda x: x.norm(p=math.inf),
    "std": lambda x: x.std(),
    "std of an axis": lambda x: x.std(-1, keepdim=True),
    "std, biased": lambda x: x.std(dim=1, unbiased=False),
    "var": lambda x: x.var(),
    "var of an axis, biased": lambda x: x.var(dim=0, correction=0),
    "unit rows": lambda x: x / x.norm(dim=-1, keepdim=True),
    "standardised": lambda x: (x - x.mean(dim=-1, keepdim=True)) / x.std(dim=-1, keepdim=True),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(xp, rng, name):
    check_gradients(CASES[name], xp.asarray(rng.standard_normal((2, 3, 4))))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_like_torch(xp, rng, name, dtype):
    compare_with_torch(CASES[name], CASES[name], [rng.standard_normal((2, 3, 4))], xp, dtype)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["abs", "clamp", "norm", "norm of an axis", "sum of absolute values"])
def test_at_zero_as_torch_has_it(xp, name):
    x = np.zeros((2, 3, 4))
    x[0, 0] = [-0.5, 0.7, 0.0, 2.0]  # at the bounds, too
    compare_with_torch(CASES[name], CASES[name], [x], xp, "float64")


def test_the_spread_of_one_number_is_not_known():
    assert math.isnan(Tensor([3.0]).std())


@pytest.mark.parametrize("p", [3, "nuc", -1])
def test_other_norms_are_refused(p):
    with pytest.raises(ValueError, match=f"norm: p should be 1, 2, 'fro' or infinity, got {p!r}"):
        Tensor([1.0]).norm(p)


def test_clamp_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="give min, max or both"):
        Tensor([1.0]).clamp()


def test_integers_too(xp):
    x = Tensor(xp.asarray([-3, 4]))
    assert_close(x.abs(), np.array([3, 4]))
    assert_close(x.clamp(0, 3), np.array([0, 3]))
