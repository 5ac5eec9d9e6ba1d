"""Weights written to in place between a forward pass and its backward pass: refused, as torch does."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np import SGD
from lora_np.autograd import Tensor
from lora_np.autograd.in_place import outdate


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def test_a_graph_from_before_is_refused_and_gives_no_gradient_to_anybody():
    x, w, v = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    loss = (x * w * v).sum()
    outdate([w])
    w.data *= 2
    with pytest.raises(RuntimeError, match="used weights that have changed: run the forward pass again"):
        loss.backward()
    assert x.grad is None
    assert w.grad is None
    assert v.grad is None
    (x * w * v).sum().backward()
    assert_close(x.grad, w.data * v.data)


def test_other_graphs_are_not():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    loss = (x * 2.0).sum()
    outdate([w])
    loss.backward()
    assert_close(x.grad, [2.0, 2.0])


def test_a_leaf_without_a_graph_is_left_alone():
    w = leaf(1.0)
    outdate([w, w])
    (w * 3.0).sum().backward()
    assert_close(w.grad, [3.0])


def test_what_has_no_gradient_is_not_changed_by_a_step_and_stays_usable():
    x, w = leaf(1.0), leaf(2.0)
    kept = (w * 3.0).sum()
    (x * 1.0).sum().backward()
    SGD([x, w], lr=0.1).step()
    kept.backward()
    assert_close(w.grad, [3.0])


@pytest.mark.parity
def test_torch_refuses_the_same():
    import torch

    x, w = (torch.ones(2, requires_grad=True) for _ in range(2))
    loss, other = (x * w).sum(), (x * w).sum()
    other.backward()
    torch.optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
