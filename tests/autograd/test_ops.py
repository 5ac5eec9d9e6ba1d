"""The small operations: values as in NumPy, gradients as in central differences and torch."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from helpers import assert_close, check_direction, check_gradients, compare_with_torch, examples, gradients
from hypothesis import given
from hypothesis import strategies as st

from lora_np import manual_seed
from lora_np.autograd import Tensor, ops
from lora_np.autograd.devices import to_numpy

ELEMENTWISE = {
    "add": (lambda a, b: a + b, [(2, 3), (2, 3)]),
    "add, a row": (lambda a, b: a + b, [(2, 3), (3,)]),
    "add, a column": (lambda a, b: a + b, [(2, 1), (4, 1, 3)]),
    "add, single values": (lambda a, b: a + b, [(), ()]),
    "add a number": (lambda a: 2.0 + a + 1, [(2, 3)]),
    "sub": (lambda a, b: a - b, [(2, 3), (2, 3)]),
    "sub, a row": (lambda a, b: a - b, [(3,), (2, 3)]),
    "sub from a number": (lambda a: 2.0 - a - 1, [(2, 3)]),
    "mul": (lambda a, b: a * b, [(2, 3), (2, 3)]),
    "mul, a column": (lambda a, b: a * b, [(2, 1), (2, 3)]),
    "mul, a single value": (lambda a, b: a * b, [(), (2, 3)]),
    "mul by a number": (lambda a: 2.0 * a * 3, [(2, 3)]),
    "div": (lambda a, b: a / b, [(2, 3), (2, 3)]),
    "div, a row": (lambda a, b: a / b, [(3,), (2, 3)]),
    "div, a column": (lambda a, b: a / b, [(2, 3), (2, 1)]),
    "div of and by a number": (lambda a: 2.0 / a / 3, [(2, 3)]),
    "neg": (lambda a: -a, [(2, 3)]),
    "the same tensor twice": (lambda a: a * a + a / a - a, [(2, 3)]),
    **{f"power {n}": (lambda a, n=n: a**n, [(2, 3)]) for n in (0, 1, 2, 3, -1, -2, 0.5, 2.5, -0.5)},
}
FUNCTIONS = {name: (getattr(ops, name), getattr(np, name)) for name in ("exp", "log", "tanh", "sqrt")}

MATRICES = [
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((1, 3), (3, 1)),
    ((2, 2, 3), (3, 4)),
    ((2, 3), (2, 3, 4)),
    ((2, 2, 3), (2, 3, 4)),
    ((2, 1, 2, 3), (3, 3, 2)),
    ((1, 2, 3), (4, 3, 2)),
    ((2, 2, 2, 3), (3, 4)),
    ((2, 3), (2, 2, 3, 2)),
    ((3,), (2, 3, 4)),
    ((3,), (2, 2, 3, 1)),
    ((2, 2, 3), (3,)),
    ((2, 1, 2, 3), (3,)),
]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(xp, rng, name):
    function, shapes = ELEMENTWISE[name]
    arrays = [rng.uniform(0.5, 2, shape) for shape in shapes]
    given = [xp.asarray(a) for a in arrays]
    assert_close(function(*map(Tensor, given)), np.asarray(function(*arrays)))
    check_gradients(function, *given)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0, 3)])
def test_functions(xp, rng, name, shape):
    ours, theirs = FUNCTIONS[name]
    a = rng.uniform(0.5, 2, shape)
    assert_close(ours(Tensor(xp.asarray(a))), theirs(a))
    assert_close(getattr(Tensor(xp.asarray(a)), name)(), theirs(a))
    check_gradients(ours, xp.asarray(a))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_powers_at_zero_and_below(xp, n):
    check_gradients(lambda a: a**n, xp.asarray([0.0, -1.5, 2.0]))


@pytest.mark.parametrize("exponent", [Tensor([2.0]), np.ones(2), "2", None])
def test_an_exponent_must_be_a_number(xp, exponent):
    with pytest.raises(TypeError, match=f"exponent must be a Python number, not {type(exponent).__name__}"):
        Tensor(xp.ones(2)) ** exponent


@pytest.mark.parametrize(("a", "b"), MATRICES)
def test_matmul(xp, rng, a, b):
    a, b = rng.standard_normal(a), rng.standard_normal(b)
    x, y = xp.asarray(a), xp.asarray(b)
    assert_close(Tensor(x) @ Tensor(y), np.asarray(a @ b))
    check_gradients(lambda a, b: a @ b, x, y)


@examples
@given(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=3, max_side=3))
def test_matmul_of_any_stacks(xp, shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape) for shape in shapes.input_shapes)
    x, y = xp.asarray(a), xp.asarray(b)
    assert_close(Tensor(x) @ Tensor(y), np.asarray(a @ b))
    check_direction(ops.matmul, x, y)


@pytest.mark.parametrize(
    ("a", "b"), [((0, 3), (3, 2)), ((0, 2, 3), (3, 2)), ((0, 2, 3), (0, 3, 2)), ((2, 0), (0, 3)), ((2, 3, 0), (0, 4))]
)
def test_matmul_of_empty_arrays(xp, a, b):
    x, y = xp.ones(a), xp.ones(b)
    assert_close(Tensor(x) @ Tensor(y), np.ones(a) @ np.ones(b))
    check_gradients(ops.matmul, x, y)


@pytest.mark.parametrize(("a", "b"), [((2, 3), (2, 3)), ((3,), (2,)), ((2, 2, 3), (3, 3, 2)), ((2, 3), (2,))])
def test_matmul_names_shapes_that_do_not_fit(xp, a, b):
    with pytest.raises(ValueError, match="matmul: shapes") as caught:
        Tensor(xp.ones(a)) @ Tensor(xp.ones(b))
    assert f"{a} and {b}" in str(caught.value)


@pytest.mark.parametrize("number", [2.0, 3])
def test_matmul_with_a_number_is_refused(xp, number):
    with pytest.raises(ValueError, match=r"matmul: both inputs need at least one axis; use \* for a number"):
        Tensor(xp.ones((2, 2))) @ number


@st.composite
def reductions(draw, min_side=1):
    """(shape, axis, keepdims): None, an int or a tuple of ints, from the front or the back."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=min_side, max_side=3))
    choices = [st.none()]
    if shape:
        choices += [st.integers(-len(shape), len(shape) - 1), hnp.valid_tuple_axes(len(shape))]
    return shape, draw(st.one_of(choices)), draw(st.booleans())


@examples
@given(reductions(min_side=0))
def test_sum_over_any_axes(xp, case):
    shape, axis, keepdims = case
    a = np.random.default_rng(0).standard_normal(shape)
    x = xp.asarray(a)
    assert_close(Tensor(x).sum(axis, keepdims), np.asarray(a.sum(axis=axis, keepdims=keepdims)))
    check_direction(lambda a: ops.sum(a, axis, keepdims), x)


@pytest.mark.parametrize("name", ["mean", "max"])
@examples
@given(reductions())
def test_mean_and_max_over_any_axes(xp, name, case):
    shape, axis, keepdims = case
    a = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape) / 8  # no ties
    x = xp.asarray(a)
    expected = np.asarray(getattr(a, name)(axis=axis, keepdims=keepdims))
    assert_close(getattr(Tensor(x), name)(axis=axis, keepdims=keepdims), expected)
    check_direction(lambda a: getattr(ops, name)(a, axis, keepdims), x)


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(xp, rng, name, axis, keepdims):
    check_gradients(
        lambda a: getattr(a, name)(axis=axis, keepdims=keepdims), xp.asarray(rng.standard_normal((2, 3, 2)))
    )


def test_the_gradient_of_max_is_shared_between_ties(xp):
    x = Tensor(xp.asarray([[1.0, 5.0, 5.0, 5.0], [2.0, 0.0, 2.0, 1.0], [3.0, 1.0, 1.0, 1.0]]), requires_grad=True)
    x.max(axis=1).backward(xp.asarray([6.0, 4.0, 1.0]))
    assert_close(x.grad, np.array([[0.0, 2, 2, 2], [2, 0, 2, 0], [1, 0, 0, 0]]))


def test_two_ties_agree_with_central_differences(xp):
    check_gradients(lambda a: a.max(axis=1), xp.asarray([[1.0, 2.0, 2.0], [4.0, 4.0, 0.0]]))


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@pytest.mark.parametrize("axis", [2, -3, (0, 5)])
def test_an_axis_that_does_not_exist_is_named(xp, name, axis):
    with pytest.raises(ValueError, match="does not exist in a tensor with 2 axes") as caught:
        getattr(Tensor(xp.ones((2, 3))), name)(axis)
    assert str(axis) in str(caught.value)


def test_mean_of_nothing_is_refused(xp):
    with pytest.raises(ValueError, match=r"nothing to average in shape \(0, 3\) over axis 0"):
        Tensor(xp.ones((0, 3))).mean(axis=0)


def test_dropout_gradients_use_the_mask_of_the_forward_pass(xp, rng):
    def dropped(a):
        manual_seed(3)
        return ops.dropout(a, 0.4)

    check_gradients(dropped, xp.asarray(rng.standard_normal((4, 5))))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_drops_and_scales(xp, dtype):
    x = Tensor(xp.ones((200, 300), dtype), requires_grad=True)
    y = ops.dropout(x, 0.25)
    y.backward(xp.ones((200, 300), dtype))
    values = to_numpy(y.data)
    assert y.dtype == dtype
    assert set(np.unique(values)) == {0, np.dtype(dtype).type(1 / 0.75)}
    assert abs((values == 0).mean() - 0.25) < 0.01
    assert_close(x.grad, values)


def test_dropout_follows_the_seed(xp):
    x = Tensor(xp.ones(50))

    def draw(seed):
        manual_seed(seed)
        return to_numpy(ops.dropout(x, 0.5).data), to_numpy(ops.dropout(x, 0.5).data)

    first, second = draw(1)
    again, _ = draw(1)
    other, _ = draw((1, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert (first != other).any()


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0, True), (0.5, False)])
def test_dropout_that_is_off_is_the_input_itself(xp, p, training):
    x = Tensor(xp.ones(3), requires_grad=True)
    assert ops.dropout(x, p, training) is x


@pytest.mark.parametrize("p", [1, 1.0, 1.5, -0.1, float("nan")])
@pytest.mark.parametrize("training", [True, False])
def test_a_dropout_probability_out_of_range_is_named(xp, p, training):
    with pytest.raises(ValueError, match=rf"dropout probability must be in \[0, 1\), got {p}"):
        ops.dropout(Tensor(xp.ones(3)), p, training)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", [*ELEMENTWISE, *FUNCTIONS])
def test_python_numbers_do_not_change_the_dtype(xp, name, dtype):
    function, shapes = ELEMENTWISE[name] if name in ELEMENTWISE else (FUNCTIONS[name][0], [(2, 3)])
    y, found = gradients(function, [xp.ones(shape, dtype) for shape in shapes])
    assert y.dtype == dtype
    assert {g.dtype for g in found} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_reductions_keep_the_dtype(xp, name, dtype):
    y, (dx,) = gradients(lambda a: getattr(a, name)(axis=1), [xp.ones((2, 3), dtype)])
    assert y.dtype == dx.dtype == dtype


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("a", "b"), [((5, 7), (7, 3)), ((2, 4, 5, 7), (7, 3)), ((4, 5, 7), (2, 4, 7, 3)), ((7,), (7, 3))]
)
def test_matmul_like_torch(xp, rng, dtype, a, b):
    compare_with_torch(
        lambda a, b: a @ b, lambda a, b: a @ b, [rng.standard_normal(a), rng.standard_normal(b)], xp, dtype
    )


@pytest.mark.parity
def test_ties_like_torch(xp, rng):
    a = rng.integers(0, 3, (4, 5, 6)).astype(float)
    compare_with_torch(lambda a: a.max(axis=(0, 2)), lambda a: a.amax(dim=(0, 2)), [a], xp, "float64")


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_chain_of_all_like_torch(xp, rng, dtype):
    def chain(a, b):
        y = (a * b + 1.5) / (2.0 - b.tanh()) - (a**2 + 1.0).sqrt()
        return (y.exp() + 1.0).log() * a.sum() + b.reshape(3, 4).swapaxes(0, 1).sum(1)[:, None] - (-a)

    arrays = [rng.standard_normal((4, 3)), rng.standard_normal((4, 3))]
    compare_with_torch(chain, chain, arrays, xp, dtype)
