"""Broadcasting: any shapes that fit, and the sums that undo it."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from helpers import assert_close, check_direction, examples
from hypothesis import given
from hypothesis import strategies as st

from lora_np.autograd import Tensor, ops, shape_ops
from lora_np.autograd.broadcasting import operand, unbroadcast
from lora_np.autograd.devices import to_numpy

BINARY = {
    "add": (ops.add, np.add),
    "sub": (ops.sub, np.subtract),
    "mul": (ops.mul, np.multiply),
    "div": (ops.div, np.divide),
}


def pairs(**limits):
    return hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, **limits)


@pytest.mark.parametrize("name", BINARY)
@examples
@given(shapes=pairs(min_side=0), seed=st.integers(0, 99))
def test_binary_operations_on_any_shapes_that_broadcast(xp, name, shapes, seed):
    ours, theirs = BINARY[name]
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(0.5, 2, shape) for shape in shapes.input_shapes)
    x, y = xp.asarray(a), xp.asarray(b)
    assert_close(ours(Tensor(x), Tensor(y)), theirs(a, b))
    check_direction(ours, x, y)


@examples
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3, min_side=0))
def test_where_on_any_shapes_that_broadcast(xp, shapes):
    rng = np.random.default_rng(0)
    choice, a, b = (rng.standard_normal(shape) for shape in shapes.input_shapes)
    mask, x, y = xp.asarray(choice > 0), xp.asarray(a), xp.asarray(b)
    assert_close(shape_ops.where(mask, Tensor(x), Tensor(y)), np.where(choice > 0, a, b))
    check_direction(lambda a, b: shape_ops.where(mask, a, b), x, y)


@examples
@given(shapes=pairs(min_side=0))
def test_unbroadcast_is_the_adjoint_of_broadcasting(xp, shapes):
    """<dy, broadcast(x)> = <unbroadcast(dy), x> for every x and dy."""
    rng = np.random.default_rng(0)
    small, large = rng.standard_normal(shapes.input_shapes[0]), rng.standard_normal(shapes.result_shape)
    summed = to_numpy(unbroadcast(xp.asarray(large), small.shape))
    assert summed.shape == small.shape
    np.testing.assert_allclose((summed * small).sum(), (large * small).sum(), rtol=1e-10, atol=1e-12)


def test_unbroadcast_of_the_same_shape_is_the_array_itself(xp):
    dy = xp.ones((2, 1, 3))
    assert unbroadcast(dy, (2, 1, 3)) is dy


@pytest.mark.parametrize("name", BINARY)
def test_shapes_that_do_not_broadcast_are_named(xp, name):
    with pytest.raises(ValueError, match=rf"{name}: shapes \(2, 3\) and \(2,\) do not broadcast"):
        BINARY[name][0](Tensor(xp.ones((2, 3))), xp.ones(2))


def test_where_names_shapes_that_do_not_broadcast(xp):
    with pytest.raises(ValueError, match=r"where: shapes \(2, 3\) and \(2,\) do not broadcast"):
        shape_ops.where(xp.ones((2, 3), bool), Tensor(xp.ones((2, 3))), xp.ones(2))


@pytest.mark.parametrize("number", [2, 2.5, True])
def test_an_operand_that_is_a_python_number_stays_one(number):
    assert operand(number) is number


def test_an_operand_of_a_list_is_float32():
    assert operand([1.0, 2.0]).dtype == np.float32


@pytest.mark.parity
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize("floats", ["float16", "float32", "float64", 2.5, 2])
@pytest.mark.parametrize("integers", ["uint8", "int32", "int64"])
def test_integers_beside_floats_have_the_dtype_that_torch_gives_them(name, floats, integers):
    import operator

    torch = pytest.importorskip("torch")
    function = getattr(operator, {"div": "truediv"}.get(name, name))
    numbers = isinstance(floats, (int, float))
    theirs = floats if numbers else torch.ones(2, dtype=getattr(torch, floats))
    ours = floats if numbers else Tensor(np.ones(2, floats))
    for swapped in (False, True):
        pairs = (ours, Tensor(np.full(2, 3, integers))), (theirs, torch.full((2,), 3, dtype=getattr(torch, integers)))
        found, expected = (function(*(reversed(pair) if swapped else pair)) for pair in pairs)
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-6)
