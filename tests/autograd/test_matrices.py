"""Operations on whole matrices: values beside NumPy's, gradients beside finite differences."""

import numpy as np
import pytest

from lora_np import Tensor
from lora_np.autograd.gradcheck import gradcheck
from lora_np.autograd.matrices import inverse, inverse_fourier, skew_symmetric, upper_triangle

PLACES = np.array([3, 7, 11, 0])
OPERATIONS = {
    "inverse": (inverse, (2, 3, 3)),
    "upper_triangle": (upper_triangle, (3, 3)),
    "upper_triangle, 1": (lambda a: upper_triangle(a, 1), (2, 3, 3)),
    "skew_symmetric": (lambda a: skew_symmetric(a, 4), (2, 6)),
    "inverse_fourier": (lambda a: inverse_fourier(a, PLACES, (3, 5)), (4,)),
    "inverse_fourier of even sides": (lambda a: inverse_fourier(a, PLACES, (4, 6)), (4,)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_finite_differences(name, rng):
    function, shape = OPERATIONS[name]
    gradcheck(function, [Tensor(rng.standard_normal(shape), requires_grad=True)])


def test_values(rng, xp):
    a = xp.asarray(rng.standard_normal((2, 3, 3)))
    np.testing.assert_allclose((inverse(a) @ a).numpy(), np.broadcast_to(np.eye(3), a.shape), atol=1e-12)
    np.testing.assert_array_equal(upper_triangle(a, 1).numpy(), np.triu(Tensor(a).numpy(), 1))
    Q = skew_symmetric(xp.asarray(rng.standard_normal((2, 6))), 4).numpy()
    np.testing.assert_array_equal(Q, -Q.swapaxes(-1, -2))
    assert (Q[:, 0, 1:] != 0).all()


def test_an_inverse_in_float16(rng):
    a = (np.eye(3) + 0.1 * rng.standard_normal((2, 3, 3))).astype(np.float16)
    found = inverse(Tensor(a))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.numpy(), np.linalg.inv(a.astype(np.float64)), atol=2e-3)


def test_the_inverse_transform_is_a_sum_of_waves(rng, xp):
    c = rng.standard_normal(4)
    M, N = shape = 3, 5
    p, q = np.arange(M)[:, None], np.arange(N)
    waves = [np.cos(2 * np.pi * (place // N * p / M + place % N * q / N)) / (M * N) for place in PLACES]
    expected = sum(number * wave for number, wave in zip(c, waves, strict=True))
    np.testing.assert_allclose(inverse_fourier(xp.asarray(c), PLACES, shape).numpy(), expected, atol=1e-14)
    assert inverse_fourier(xp.asarray(c.astype(np.float32)), PLACES, shape).dtype == np.float32
