"""The gradient check itself: it must pass what is right and say clearly what is wrong."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np.autograd import Tensor, gradcheck, ops
from lora_np.autograd.devices import to_numpy
from lora_np.autograd.gradcheck import GradientError, _differences
from lora_np.autograd.tensor import record


def times(factor, claimed):
    """x -> factor · x, with dx = `claimed` · dy."""
    return lambda x: record(x.data * factor, (x,), lambda dy: (dy * claimed,))


@pytest.fixture
def x(xp):
    return Tensor(xp.asarray([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]]), requires_grad=True)


def test_a_right_gradient_passes_and_the_largest_difference_is_small(x):
    assert 0 <= gradcheck(times(3.0, 3.0), [x]) < 1e-7


def test_the_differences_are_those_of_a_known_function(xp, x):
    v = xp.ones((2, 3))
    found = _differences(lambda x: x * x * x, [x], x, v, 1e-6)
    assert_close(found, 3 * to_numpy(x.data) ** 2, rtol=1e-6)


def test_a_wrong_gradient_names_input_index_and_values(xp, x):
    wrong = np.ones((2, 3))
    wrong[1, 2] = 1.5
    wrong = xp.asarray(wrong)
    frozen = Tensor(xp.ones(3))
    with pytest.raises(GradientError) as caught:
        gradcheck(lambda a, x: a + times(1.0, wrong)(x), [frozen, x])
    message = str(caught.value)
    v = np.random.default_rng(0).standard_normal((2, 3))[1, 2]
    assert "input 1, shape (2, 3)" in message
    assert "index (1, 2)" in message
    assert f"{1.5 * v:.6g}"[:-1] in message
    assert f"{v:.6g}"[:-1] in message
    assert "1 of 6 entries differ" in message


@pytest.mark.parametrize("error", [1e-3, -1e-3])
def test_a_small_relative_error_is_found(x, error):
    with pytest.raises(GradientError, match="6 of 6 entries differ"):
        gradcheck(times(2.0, 2.0 + error), [x])


def test_errors_that_cancel_under_a_cotangent_of_ones_are_found(xp, x):
    wrong = xp.asarray([[1.0, 1.1, 0.9], [1.0, 1.0, 1.0]])
    with pytest.raises(GradientError, match="2 of 6 entries differ"):
        gradcheck(times(1.0, wrong), [x])


def test_a_missing_gradient_is_found(x):
    other = Tensor(x.data, requires_grad=True)
    with pytest.raises(GradientError, match=r"input 1, shape \(2, 3\): backward\(\) left no gradient"):
        gradcheck(lambda a, b: a * 2.0, [x, other])


def test_a_gradient_of_the_wrong_shape_is_found(x):
    with pytest.raises(GradientError, match=r"input 0: the gradient has shape \(3, 2\), the input \(2, 3\)"):
        gradcheck(lambda x: record(x.data * 1.0, (x,), lambda dy: (dy.T,)), [x])


@pytest.mark.parametrize("shape", [(), (3,)])
def test_nan_is_found_where_it_is(xp, shape):
    x = Tensor(xp.asarray(np.ones(shape)), requires_grad=True)
    claimed = np.ones(shape)
    claimed[(2,) if shape else ()] = np.nan
    with pytest.raises(GradientError, match=r"index \((2,)?\).* gives nan.* 1 of . entries differ"):
        gradcheck(times(1.0, xp.asarray(claimed)), [x])


def test_a_gradient_of_nan_everywhere_is_found(x):
    with pytest.raises(GradientError, match="nan"):
        gradcheck(times(1.0, np.nan), [x])


def test_nothing_to_check_is_an_error(xp):
    with pytest.raises(ValueError, match="nothing to check"):
        gradcheck(lambda a: a * 2.0, [Tensor(xp.ones(2))])


def test_inputs_are_left_as_they_were(x):
    data, values = x.data, to_numpy(x.data).copy()
    gradcheck(lambda x: x * x, [x])
    assert x.data is data
    np.testing.assert_array_equal(to_numpy(data), values)


def test_inputs_are_restored_when_the_function_fails(x):
    data = x.data

    def fails_when_moved(x):
        if x.data is not data:
            raise ArithmeticError("moved")
        return x * 2.0

    with pytest.raises(ArithmeticError, match="moved"):
        gradcheck(fails_when_moved, [x])
    assert x.data is data


def test_an_earlier_gradient_does_not_count(x):
    x.grad = x.data * 100
    gradcheck(lambda x: x * x, [x])


def test_one_tensor_given_twice(x):
    gradcheck(ops.mul, [x, x])


def test_other_arguments_pass_through(x):
    gradcheck(ops.power, [x, 2])
