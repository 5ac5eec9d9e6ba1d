"""Operations that move numbers: shape, order, indexing, look-up. Their gradients move dy back."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from helpers import assert_close, check_direction, check_gradients, compare_with_torch, examples, gradients
from hypothesis import given
from hypothesis import strategies as st

from lora_np.autograd import Tensor, shape_ops
from lora_np.autograd.devices import to_numpy

UNARY = {
    "reshape": (lambda a: a.reshape(4, 6), lambda a: a.reshape(4, 6)),
    "reshape to a tuple": (lambda a: a.reshape((6, 4)), lambda a: a.reshape(6, 4)),
    "reshape with -1": (lambda a: a.reshape(2, -1), lambda a: a.reshape(2, 12)),
    "reshape, flat": (lambda a: a.reshape(-1), lambda a: a.ravel()),
    "transpose": (lambda a: a.transpose(), lambda a: a.transpose()),
    "T": (lambda a: a.T, lambda a: a.T),
    "transpose with axes": (lambda a: a.transpose(1, 2, 0), lambda a: a.transpose(1, 2, 0)),
    "transpose with a tuple": (lambda a: a.transpose((2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    "transpose with negative axes": (lambda a: a.transpose(-1, 0, -2), lambda a: a.transpose(2, 0, 1)),
    "swapaxes": (lambda a: a.swapaxes(0, 2), lambda a: a.swapaxes(0, 2)),
    "swapaxes with negative axes": (lambda a: a.swapaxes(-1, -2), lambda a: a.swapaxes(2, 1)),
}

BASIC = [
    0,
    -1,
    slice(None),
    slice(1, None),
    slice(None, None, -1),
    slice(3, 3),
    ...,
    None,
    (1, 2),
    (1, 2, 3),
    (slice(None), 1),
    (..., 1),
    (..., slice(None, None, 2)),
    (slice(0, 1), None, ..., -1),
]

ADVANCED = {
    "integers": np.array([1, 0]),
    "one integer many times": np.array([1, 1, 1, 0]),
    "negative beside positive": np.array([1, -1, 0]),
    "two axes of integers": np.array([[0, 1], [1, 1]]),
    "integer arrays together": (np.array([0, 1, 1]), np.array([2, 0, 0])),
    "integer arrays that broadcast": (np.array([[0], [1]]), np.array([2, 0, 0])),
    "integers behind a slice": (slice(None), np.array([2, 2, 0])),
    "integers before a slice": (np.array([1, 1]), slice(1, None)),
    "integers around a slice": (np.array([0, 1, 0]), slice(None), np.array([3, 3, 3])),
    "integers beside an int": (1, np.array([0, 0, 2])),
    "no integers": np.array([], dtype=int),
    "mask of all axes": np.arange(24).reshape(2, 3, 4) % 5 == 1,
    "mask of one axis": np.array([False, True]),
    "mask behind a slice": (slice(None), np.array([True, False, True])),
    "empty mask": np.zeros((2, 3), bool),
}


def on_device(xp, index):
    """The index with its arrays made by `xp`."""
    if isinstance(index, tuple):
        return tuple(on_device(xp, i) for i in index)
    return xp.asarray(index) if isinstance(index, np.ndarray) else index


@pytest.fixture
def a(rng):
    return rng.standard_normal((2, 3, 4))


@pytest.mark.parametrize("name", UNARY)
def test_shape_and_order(xp, a, name):
    ours, theirs = UNARY[name]
    assert_close(ours(Tensor(xp.asarray(a))), theirs(a))
    check_gradients(ours, xp.asarray(a))


@pytest.mark.parametrize("index", BASIC, ids=repr)
def test_basic_index(xp, a, index):
    assert_close(Tensor(xp.asarray(a))[index], a[index])
    check_gradients(lambda a: a[index], xp.asarray(a))


@pytest.mark.parametrize("name", ADVANCED)
def test_advanced_index(xp, a, name):
    index = on_device(xp, ADVANCED[name])
    assert_close(Tensor(xp.asarray(a))[index], a[ADVANCED[name]])
    check_gradients(lambda a: a[index], xp.asarray(a))


def test_an_index_may_be_a_list_or_a_tensor(xp, a):
    x = Tensor(xp.asarray(a))
    rows, columns = Tensor(xp.asarray([1, 0, 1])), Tensor(xp.asarray([2, 2, 0]))
    assert_close(x[[1, 0]], a[[1, 0]])
    assert_close(x[rows], a[[1, 0, 1]])
    assert_close(x[rows, columns], a[[1, 0, 1], [2, 2, 0]])
    check_gradients(lambda a: a[rows, columns], xp.asarray(a))


def test_an_index_that_occurs_twice_gets_both_gradients(xp):
    x = Tensor(xp.zeros(3), requires_grad=True)
    x[xp.asarray([0, 2, 0, 0])].backward(xp.asarray([1.0, 10.0, 100.0, 1000.0]))
    assert_close(x.grad, np.array([1101.0, 0.0, 10.0]))


def test_the_rows_of_a_tensor_can_be_walked_over(xp):
    x = Tensor(xp.asarray([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    assert_close(x.grad, np.array([[3.0, 4.0], [1.0, 2.0]]))


@examples
@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
def test_any_basic_index(xp, data, shape):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    a = np.arange(float(np.prod(shape))).reshape(shape)
    assert_close(Tensor(xp.asarray(a))[index], a[index])
    check_direction(lambda a: a[index], xp.asarray(a))


@examples
@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
def test_any_integer_arrays(xp, data, shape):
    index = data.draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=4)))
    a = np.arange(float(np.prod(shape))).reshape(shape)
    assert_close(Tensor(xp.asarray(a))[on_device(xp, index)], a[index])
    check_direction(lambda a: a[on_device(xp, index)], xp.asarray(a))


@examples
@given(data=st.data(), shape=hnp.array_shapes(max_dims=4, max_side=4))
def test_any_order_of_axes_can_be_undone(xp, data, shape):
    order = data.draw(st.permutations([i - data.draw(st.sampled_from([0, len(shape)])) for i in range(len(shape))]))
    a = np.arange(float(np.prod(shape))).reshape(shape)
    assert_close(Tensor(xp.asarray(a)).transpose(order), a.transpose(order))
    check_direction(lambda a: a.transpose(order), xp.asarray(a))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_concatenate(xp, rng, axis):
    shapes = [[2, 2, 2] for _ in range(3)]
    for shape, length in zip(shapes, (1, 0, 3), strict=True):
        shape[axis] = length
    arrays = [rng.standard_normal(shape) for shape in shapes]
    given = [xp.asarray(a) for a in arrays]
    assert_close(shape_ops.concatenate([Tensor(x) for x in given], axis), np.concatenate(arrays, axis))
    check_gradients(lambda *tensors: shape_ops.concatenate(tensors, axis), *given)


def test_concatenate_of_one_tensor_with_itself(xp, rng):
    check_gradients(lambda a, b: shape_ops.concatenate([a, b, a, a * 2.0]), *xp.asarray(rng.standard_normal((2, 2, 3))))


@pytest.mark.parametrize(
    ("condition", "a", "b"), [((3,), (2, 3), (2, 3)), ((2, 3), (3,), (2, 1)), ((2, 2, 3), (2, 3), (1,)), ((), (2,), ())]
)
def test_where(xp, rng, condition, a, b):
    condition, a, b = (rng.standard_normal(shape) for shape in (condition, a, b))
    mask, x, y = xp.asarray(condition > 0), xp.asarray(a), xp.asarray(b)
    assert_close(shape_ops.where(Tensor(mask), Tensor(x), Tensor(y)), np.where(condition > 0, a, b))
    check_gradients(lambda a, b: shape_ops.where(mask, a, b), x, y)


def test_where_with_numbers(xp):
    mask, x = xp.asarray([True, False, True]), xp.ones(3, xp.float32)
    assert_close(shape_ops.where(mask, Tensor(x), -1.0), np.array([1, -1, 1], np.float32))
    assert shape_ops.where(mask, 2, Tensor(x)).dtype == np.float32
    check_gradients(lambda a: shape_ops.where(mask, a, -1.0), xp.asarray([1.0, 2.0, 3.0]))
    check_gradients(lambda b: shape_ops.where(mask, -1.0, b), xp.asarray([1.0, 2.0, 3.0]))


IDS = {
    "one axis": [0, 3, 1],
    "repeated": [2, 2, 0, 2],
    "two axes, repeated": [[4, 1, 1], [1, 4, 0]],
    "none": np.zeros((2, 0), int),
    "a single id": np.array(3),
}


@pytest.mark.parametrize("name", IDS)
def test_embedding(xp, rng, name):
    table, ids = rng.standard_normal((5, 3)), np.asarray(IDS[name])
    x, i = xp.asarray(table), xp.asarray(ids)
    assert_close(shape_ops.embedding(Tensor(x), i), table[ids])
    check_gradients(lambda weight: shape_ops.embedding(weight, i), x)


def test_embedding_takes_ids_as_a_number_a_list_or_a_tensor(xp):
    weight = Tensor(xp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert_close(shape_ops.embedding(weight, Tensor(xp.asarray([1, 0]))), np.array([[3.0, 4.0], [1.0, 2.0]]))
    assert_close(shape_ops.embedding(weight, [1, 0]), np.array([[3.0, 4.0], [1.0, 2.0]]))
    assert_close(shape_ops.embedding(weight, np.uint8(2)), np.array([5.0, 6.0]))
    assert_close(shape_ops.embedding(weight, 2), np.array([5.0, 6.0]))


@examples
@given(ids=hnp.arrays(int, hnp.array_shapes(max_dims=2, max_side=12), elements=st.integers(0, 6)))
def test_embedding_is_a_product_with_one_hot_rows(xp, ids):
    table = np.random.default_rng(0).standard_normal((7, 2))
    onehot = np.eye(7)[ids]
    v = np.random.default_rng(1).standard_normal((*ids.shape, 2))
    y, (dtable,) = gradients(lambda weight: shape_ops.embedding(weight, xp.asarray(ids)), [xp.asarray(table)])
    assert_close(y, onehot @ table)
    assert_close(dtable, onehot.reshape(-1, 7).T @ v.reshape(-1, 2))


@pytest.mark.parametrize("wrong", [5, 1000, -1, -100])
def test_ids_out_of_range_are_named(xp, wrong):
    weight = Tensor(xp.ones((5, 2)))
    with pytest.raises(IndexError, match=rf"token id {wrong} is out of range: there are 5, numbered 0 to 4"):
        shape_ops.embedding(weight, xp.asarray([0, wrong, 4]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_ids_that_are_no_integers_are_refused(xp, dtype):
    with pytest.raises(TypeError, match=rf"token ids must be integers, not {dtype}"):
        shape_ops.embedding(Tensor(xp.ones((5, 2))), xp.ones(3, dtype))


def test_a_shape_that_does_not_fit_is_refused(xp):
    with pytest.raises(ValueError, match="reshape"):
        Tensor(xp.ones((2, 3))).reshape(4, 2)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embedding_like_torch(xp, rng, dtype):
    import torch

    ids = rng.integers(0, 11, (4, 9))
    compare_with_torch(
        lambda weight: shape_ops.embedding(weight, xp.asarray(ids)),
        lambda weight: torch.nn.functional.embedding(torch.tensor(ids), weight),
        [rng.standard_normal((11, 6))],
        xp,
        dtype,
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", ["integers", "two axes of integers", "integers behind a slice", "mask of all axes"])
def test_index_like_torch(xp, a, name):
    import torch

    def as_torch(index):
        if isinstance(index, tuple):
            return tuple(map(as_torch, index))
        return torch.tensor(index) if isinstance(index, np.ndarray) else index

    index = on_device(xp, ADVANCED[name])
    compare_with_torch(lambda a: a[index], lambda a: a[as_torch(ADVANCED[name])], [a], xp, "float64")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("heights", [(2, 2, 2), (1, 3, 2)], ids=str)
def test_stack_padded_fills_up_with_zeros(xp, rng, heights, turned):
    matrices = [rng.standard_normal((4, r) if turned else (r, 4)) for r in heights]
    expected = np.zeros((3, 3, 4))
    for place, matrix in zip(expected, matrices, strict=True):
        place[: len(matrix.T if turned else matrix)] = matrix.T if turned else matrix
    arrays = [xp.asarray(matrix) for matrix in matrices]
    assert_close(shape_ops.stack_padded(arrays, 3, np.float64, turned), expected)
    check_gradients(lambda *tensors: shape_ops.stack_padded(tensors, 3, np.float64, turned), *arrays)


def test_stack_padded_brings_each_gradient_back_in_its_own_dtype(xp, rng):
    arrays = [xp.asarray(rng.standard_normal((2, 3)), dtype) for dtype in ("float32", "float64")]
    y, found = gradients(lambda *tensors: shape_ops.stack_padded(tensors, 2, np.float64), arrays)
    assert y.dtype == np.float64
    assert [d.dtype for d in found] == [np.float32, np.float64]


def test_integers_move_without_a_gradient(xp):
    x = Tensor(xp.arange(6))
    for y in (x.reshape(2, 3), x[::2], x[x], shape_ops.concatenate([x, x]), x.reshape(2, 3).T):
        assert y.dtype == x.dtype
        assert not y.requires_grad
    np.testing.assert_array_equal(to_numpy(x[x].data), np.arange(6))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_astype_carries_the_gradient_back_in_the_dtype_it_came_in(dtype, rng):
    a = Tensor(rng.standard_normal((3, 4)).astype(np.float32), requires_grad=True)
    y = a.astype(dtype)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.data, a.data.astype(dtype))
    (y * y).sum().backward()
    assert a.grad.dtype == np.float32
    np.testing.assert_allclose(a.grad, 2 * a.data, rtol=1e-3)


def test_astype_of_the_same_dtype_is_the_tensor_itself(rng):
    a = Tensor(rng.standard_normal(3))
    assert a.astype(np.float64) is a
