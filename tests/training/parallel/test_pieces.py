"""Gradients that are added up in one array."""

import numpy as np
import pytest

from lora_np import nn
from lora_np.training.parallel.pieces import Sums


def parameters(xp):
    return [nn.Parameter(xp.zeros(shape, np.float32)) for shape in ((2, 3), (4,), ())]


def test_shares_are_added_and_the_gradients_forgotten(xp):
    sums = Sums(found := parameters(xp))
    for share, grads in ((0.25, (1.0, None, 3.0)), (0.5, (2.0, None, 5.0))):
        for p, value in zip(found, grads, strict=True):
            p.grad = None if value is None else xp.full(p.shape, value, np.float32)
        used = sums.add(xp.asarray(10.0, np.float32), xp.full(1, share, np.float32))
        assert used == (0, 2)
        assert all(p.grad is None for p in found)
    assert [set(xp.asarray(g).ravel().tolist()) for g in sums.gradients] == [{1.25}, {0.0}, {3.25}]
    assert float(sums.loss()) == 7.5
    sums.hand_out(used)
    assert [p.grad is None for p in found] == [False, True, False]
    assert found[0].grad is sums.gradients[0]
    sums.clear()
    assert not sums.flat.any()
    assert float(sums.loss()) == 0


def test_the_loss_is_a_copy(xp):
    sums = Sums(parameters(xp))
    loss = sums.loss()
    sums.flat[...] = 3
    assert float(loss) == 0


@pytest.mark.parametrize("order", ["C", "F"])
def test_gradients_may_lie_in_memory_as_they_like(xp, order):
    sums = Sums(found := parameters(xp))
    found[0].grad = xp.asarray(np.arange(6.0, dtype=np.float32).reshape(2, 3), order=order)
    sums.add(xp.asarray(0.0, np.float32), xp.ones(1, np.float32))
    assert sums.gradients[0].tolist() == [[0, 1, 2], [3, 4, 5]]
