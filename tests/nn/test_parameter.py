"""Parameter: what its array and its gradient may be."""

import numpy as np
import pytest

from lora_np import SGD, Tensor, nn


@pytest.fixture
def layer():
    return nn.Linear(3, 2, bias=False)


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
def test_array_and_gradient_are_given_as_an_array_or_a_tensor(layer, kind):
    x, weight, grad = np.ones((1, 3)), np.full((2, 3), 2.0), np.full((2, 3), 0.5)
    layer.weight.data = kind(weight)
    np.testing.assert_array_equal(layer(Tensor(x)).numpy(), x @ weight.T)
    layer.weight.grad = kind(grad)
    SGD([layer.weight], lr=0.1).step()
    np.testing.assert_allclose(layer.weight.numpy(), np.full((2, 3), 1.95))


@pytest.mark.parametrize("name", ["data", "grad"])
@pytest.mark.parametrize("value", [[[1.0, 2.0, 3.0]] * 2, 1.0, "x"])
def test_what_is_neither_is_refused_and_nothing_has_changed(layer, name, value):
    before = layer.weight.data
    with pytest.raises(TypeError, match=rf"a parameter's {name} should be an array or a Tensor, got a"):
        setattr(layer.weight, name, value)
    assert layer.weight.data is before
    assert layer.weight.grad is None


def test_another_librarys_tensor_is_refused(layer):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="a parameter's data should be an array or a Tensor, got a Tensor"):
        layer.weight.data = torch.zeros(2, 3)


def test_a_gradient_has_the_parameters_shape(layer):
    with pytest.raises(ValueError, match=r"a gradient of shape \(3,\) does not fit a parameter of shape \(2, 3\)"):
        layer.weight.grad = np.ones(3, np.float32)
    layer.weight.grad = None
