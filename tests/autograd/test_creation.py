"""New Tensors under torch's names."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np import manual_seed
from lora_np.autograd import Tensor, creation

SAME = {
    "a number": ("tensor", (2.5,), {}),
    "a whole number": ("tensor", (2,), {}),
    "lists": ("tensor", ([[1, 2], [3, 4]],), {}),
    "booleans": ("tensor", ([True, False],), {}),
    "an array": ("tensor", (np.array([1.0, 2.0]),), {}),
    "as_tensor": ("as_tensor", ([1.0, 2.0],), {}),
    "zeros": ("zeros", (2, 3), {}),
    "zeros of a tuple": ("zeros", ((2, 3),), {}),
    "ones": ("ones", (2,), {}),
    "nothing": ("zeros", (0,), {}),
    "full": ("full", ((2, 2), 1.5), {}),
    "full of integers": ("full", ((2,), 7), {}),
    "arange": ("arange", (4,), {}),
    "arange between": ("arange", (1, 8, 3), {}),
    "arange of floats": ("arange", (0.0, 1.0, 0.25), {}),
    "eye": ("eye", (3,), {}),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", SAME)
def test_like_torch(name):
    import torch

    function, args, options = SAME[name]
    expected = getattr(torch, function)(*args, **options)
    found = getattr(creation, function)(*args, **options)
    assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    assert_close(found, expected.numpy())


def test_a_tensor_has_its_own_memory_and_from_numpy_shares_it():
    array = np.zeros(2, np.float32)
    own, shared = creation.tensor(array), creation.from_numpy(array)
    array += 1
    assert (own.tolist(), shared.tolist(), creation.as_tensor(array).data is array) == ([0, 0], [1, 1], True)


def test_dtype_device_and_gradient_are_as_asked():
    x = creation.zeros(2, dtype="float64", device="cpu", requires_grad=True)
    assert (x.dtype, x.device, x.requires_grad) == (np.float64, "cpu", True)
    assert creation.tensor([1, 2], dtype=np.float16).dtype == np.float16
    assert creation.arange(3, dtype=np.float32).dtype == np.float32


def test_tensors_in_a_list():
    assert creation.tensor([Tensor(1.0), Tensor(2.0)]).tolist() == [1, 2]


def test_like_another(xp):
    x = Tensor(xp.asarray([[1.0, 2.0]], "float64"))
    for name, value in (("zeros_like", 0), ("ones_like", 1)):
        found = getattr(creation, name)(x)
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
        assert found.tolist() == [[value, value]]
    assert creation.full_like(x, 7).tolist() == [[7, 7]]
    assert creation.zeros_like(x, dtype=np.int64).dtype == np.int64
    assert creation.randn_like(x).device == x.device


def test_chance_follows_from_the_seed():
    made = []
    for _ in range(2):
        manual_seed(3)
        made.append([creation.rand(2, 3), creation.randn(4), creation.randint(5, (8,)), creation.randint(2, 4, (9,))])
    for first, second in zip(*made, strict=True):
        assert first.equal(second)
    assert [x.shape for x in made[0]] == [(2, 3), (4,), (8,), (9,)]
    assert 0 <= int(made[0][2].min()) <= int(made[0][2].max()) < 5
    assert set(made[0][3].tolist()) <= {2, 3}
    assert made[0][0].dtype == made[0][1].dtype == np.float32


@pytest.mark.parametrize("replacement", [False, True])
def test_indices_are_drawn_by_their_weights(replacement):
    manual_seed(0)
    weights = np.array([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]], np.float32)
    drawn = creation.multinomial(Tensor(np.repeat(weights, 4000, axis=0)), 2, replacement).numpy().reshape(2, 4000, 2)
    first = [np.bincount(row[:, 0], minlength=3) / 4000 for row in drawn]
    np.testing.assert_allclose(first, weights / weights.sum(axis=1, keepdims=True), atol=0.03)
    assert ((drawn[..., 0] == drawn[..., 1]).mean() > 0.4) == replacement
    assert creation.multinomial(weights[0], 1).shape == (1,)
    assert creation.multinomial(weights[0], 1).dtype == np.int64


@pytest.mark.parametrize("weights", [[0.0, 1.0], [-1.0, 2.0], [np.nan, 1.0], [0.0, 0.0]])
def test_weights_that_make_no_distribution_are_refused(weights):
    with pytest.raises(ValueError, match="2 indices need as many positive weights"):
        creation.multinomial(weights, 2)
