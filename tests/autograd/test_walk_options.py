"""What torch's `backward` can be told."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np.autograd import Tensor


def test_the_gradient_has_torchs_name_too():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * 3).backward(gradient=Tensor([1.0, 2.0]))
    assert_close(x.grad, np.array([3.0, 6.0]))
    (x * 3).backward(grad=np.ones(2, np.float32))
    assert_close(x.grad, np.array([6.0, 9.0]))


def test_what_is_off_changes_nothing():
    x = Tensor([2.0], requires_grad=True)
    (x * x).backward(retain_graph=False, create_graph=False)
    assert x.grad.tolist() == [4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retain_graph": True}, "retain_graph=True: .* frees the graph .* run the forward pass again"),
        ({"create_graph": True}, "create_graph=True: there is no double backward here"),
    ],
)
def test_graphs_are_not_kept(options, message):
    x = Tensor([2.0], requires_grad=True)
    with pytest.raises(NotImplementedError, match=message):
        (x * x).backward(**options)
    assert x.grad is None
