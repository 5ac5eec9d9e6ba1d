"""The engine: what a Tensor holds, how gradients travel and add up, what is kept and what is let go."""

import copy
import gc
import operator
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import assert_close, captured, check_gradients, cotangent, examples, graph_nodes
from hypothesis import given
from hypothesis import strategies as st

from lora_np import manual_seed
from lora_np.autograd import Node, Tensor, gradcheck, is_grad_enabled, no_grad, ops, shape_ops
from lora_np.autograd import functional as F
from lora_np.autograd.devices import to_numpy
from lora_np.autograd.tensor import record


def leaf(xp, values, dtype="float64"):
    return Tensor(xp.asarray(values, dtype=dtype), requires_grad=True)


def model(xp, dtype="float64"):
    """A loss that goes through every kind of operation, and the leaves that it depends on."""
    rng = np.random.default_rng(0)
    shapes = {
        "table": (7, 6),
        "scale": (6,),
        "shift": (6,),
        "qkv": (6, 18),
        "w": (8, 6),
        "b": (8,),
        "A": (2, 6),
        "B": (8, 2),
        "head": (7, 8),
    }
    p = {name: leaf(xp, rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    ids = xp.asarray([[0, 3, 3, 6], [1, 2, 5, 1]])
    x = ops.dropout(shape_ops.embedding(p["table"], ids), 0.1)
    x = x + F.self_attention(F.linear(F.layer_norm(x, p["scale"], p["shift"]), p["qkv"], None, True), 2, dropout=0.1)
    heads = x.reshape(2, 4, 2, 3).swapaxes(1, 2)
    x = x + F.attention(heads, heads, heads * 0.5, causal=False).transpose(0, 2, 1, 3).reshape(2, 4, 6)
    y = F.gelu(F.lora_linear(x, p["w"], p["b"], p["A"], p["B"], 2.0, dropout=0.1), "tanh")
    y = shape_ops.where(y.data > 0.1, y, y.tanh() / 2.0) - y.mean(axis=-1, keepdims=True)
    y = shape_ops.concatenate([y[:1], F.gelu(y[xp.asarray([1, 1])])])
    loss = F.cross_entropy(y @ p["head"].T, xp.asarray([[1, 2, -100, 4]] * 3))
    loss = loss + F.linear_cross_entropy(y, p["head"], xp.asarray([[3, -100, 0, 6]] * 3))
    loss = loss + ((-y).exp() + 1.0).log().sum() * 1e-3 + ((y**2).max(axis=0).sum() + 1.0).sqrt()
    return loss, list(p.values())


class TestWhatATensorHolds:
    @pytest.mark.parametrize("values", [1, 1.5, [1.0, 2.0], [[1.0], [2.0]], [1, 2.5], (0.5,)])
    def test_python_floats_become_float32(self, values):
        expected = np.float32 if np.asarray(values).dtype.kind == "f" else np.int64
        assert Tensor(values).dtype == expected
        np.testing.assert_allclose(Tensor(values).numpy(), values)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"])
    def test_arrays_are_kept_as_they_are(self, xp, dtype):
        array = xp.ones((2, 3), dtype)
        x = Tensor(array)
        assert x.data is array
        assert x.detach().data is array
        assert Tensor(x).data is array
        assert (x.dtype, x.shape, x.ndim, x.size, len(x)) == (np.dtype(dtype), (2, 3), 2, 6, 2)
        assert x.grad is None
        assert not x.requires_grad

    @pytest.mark.parametrize("number", [np.float16(2), np.float32(2), np.float64(2), np.int64(2)])
    def test_numpy_scalars_become_arrays_of_their_type(self, number):
        x = Tensor(number)
        assert isinstance(x.data, np.ndarray)
        assert (x.dtype, x.shape, x.item()) == (number.dtype, (), 2)

    @pytest.mark.parametrize(
        "values", [1j, np.ones(2, np.complex64), "text", None, {}, np.longdouble(1), np.array([{}])]
    )
    def test_other_types_are_refused_by_name(self, values):
        with pytest.raises(TypeError, match="a Tensor holds floats, integers or booleans, not") as caught:
            Tensor(values)
        assert str(np.asarray(values).dtype) in str(caught.value)

    @pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
    def test_only_floats_can_require_a_gradient(self, xp, dtype):
        with pytest.raises(TypeError, match=f"only floating-point tensors can require a gradient, this one is {dtype}"):
            Tensor(xp.ones(2, dtype), requires_grad=True)

    def test_device_and_numpy(self, xp):
        x = Tensor(xp.ones(2))
        assert x.device == ("cpu" if xp is np else "cuda:0")
        assert isinstance(x.numpy(), np.ndarray)

    def test_detach_forgets(self, xp):
        y = leaf(xp, [1.0, 2.0]) * 2.0
        assert not y.detach().requires_grad
        assert not (y.detach() * 3.0).requires_grad


class TestOperators:
    @pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul])
    def test_an_array_on_either_side(self, xp, function):
        a, b = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[2.0, 4.0], [8.0, 1.0]])
        array, x = xp.asarray(a), leaf(xp, b)
        for y, expected in ((function(array, x), function(a, b)), (function(x, array), function(b, a))):
            assert isinstance(y, Tensor)
            assert_close(y, expected)
        check_gradients(lambda x: function(array, x), x.data)
        check_gradients(lambda x: function(x, array), x.data)

    @pytest.mark.parametrize("number", [np.float32(2), np.int64(2)])
    def test_a_numpy_scalar_on_the_left(self, number):
        x = leaf(np, [1.0, 3.0])
        for y, expected in (
            (number + x, [3, 5]),
            (number * x, [2, 6]),
            (number - x, [1, -1]),
            (number / x, [2, 2 / 3]),
        ):
            assert isinstance(y, Tensor)
            assert_close(y, np.asarray(expected, float))

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_python_numbers_do_not_promote(self, xp, dtype):
        x = leaf(xp, [1.0, 2.0], dtype)
        for y in (x + 1, 1.0 + x, 2 - x, x * 0.5, 1 / x, x / 3.0, x**2, x**0.5, x.mean(), -x):
            assert y.dtype == dtype

    def test_float64_is_kept_beside_float32(self, xp):
        assert (leaf(xp, [1.0]) + leaf(xp, [1.0], "float32")).dtype == np.float64

    def test_integers_stay_integers(self, xp):
        x = Tensor(xp.arange(3))
        for y in (x + 1, x * 2, 3 - x, -x, x + x, x.sum(), x.max(), x**2):
            assert y.dtype.kind == "i"
            assert not y.requires_grad

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_one_dtype_through_a_whole_model(self, xp, dtype):
        loss, leaves = model(xp, dtype)
        loss.backward()
        assert loss.dtype == dtype
        assert {x.grad.dtype for x in leaves} == {np.dtype(dtype)}


class TestGradients:
    def test_a_tensor_used_twice_gets_the_sum(self, xp):
        x = leaf(xp, [3.0, -1.0])
        (x * x + x).backward(xp.ones(2))
        assert_close(x.grad, np.array([7.0, -1.0]))

    def test_every_path_is_finished_before_the_next_node(self, xp):
        a = leaf(xp, 1.0)
        b = a + a
        c = b + b
        c.backward()
        assert_close(a.grad, np.array(4.0))

    def test_order_is_by_creation_not_by_depth(self, xp):
        """A walk by levels would visit `b` before the long way round has brought its part."""
        a = leaf(xp, 2.0)
        b = a * 3.0
        long = b
        for _ in range(5):
            long = long * 2.0
        (b + long).backward()
        assert_close(a.grad, np.array(3.0 * 33))

    def test_a_shared_subgraph_is_walked_once(self, xp):
        calls = []

        def counted(x):
            return record(x.data * 2, (x,), lambda dy: (calls.append(1) or dy * 2,))

        x = leaf(xp, [1.0])
        shared = counted(x)
        (shared + shared * shared + shared.exp()).sum().backward()
        assert calls == [1]
        assert_close(x.grad, np.array([2 * (1 + 2 * 2 + np.exp(2))]))

    def test_gradients_add_up_over_calls(self, xp):
        x = leaf(xp, [1.0, 2.0])
        (x * x).sum().backward()
        first = x.grad
        (x * 3.0).sum().backward()
        assert x.grad is first
        assert_close(x.grad, np.array([5.0, 7.0]))
        x.grad = None
        (x * 3.0).sum().backward()
        assert_close(x.grad, np.array([3.0, 3.0]))

    def test_backward_on_a_leaf(self, xp):
        x, v = leaf(xp, [1.0, 2.0]), xp.asarray([5.0, 6.0])
        x.backward(v)
        x.backward(v)
        assert_close(x.grad, np.array([10.0, 12.0]))
        assert_close(v, np.array([5.0, 6.0]))

    @pytest.mark.parametrize("wrap", [lambda v: v, Tensor])
    def test_the_cotangent_may_be_an_array_or_a_tensor_and_is_not_changed(self, xp, wrap):
        x, v = leaf(xp, [1.0, 2.0]), xp.asarray([2.0, 3.0])
        (x + x).backward(wrap(v))
        x.grad += 100
        assert_close(v, np.array([2.0, 3.0]))

    def test_the_cotangent_takes_the_dtype_of_the_result(self, xp):
        x = leaf(xp, [1.0, 2.0], "float32")
        (x * 2.0).backward(xp.asarray([1.0, 2.0]))
        assert x.grad.dtype == np.float32

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_a_single_value_needs_no_cotangent(self, xp, shape):
        x = leaf(xp, np.full(shape, 3.0))
        (x * x).backward()
        assert_close(x.grad, np.full(shape, 6.0))

    def test_results_in_between_keep_no_gradient(self, xp):
        x = leaf(xp, [1.0])
        y = x * 2.0
        (y * 3.0).backward()
        assert y.grad is None
        assert_close(x.grad, np.array([6.0]))

    def test_what_does_not_require_a_gradient_gets_none(self, xp):
        x, frozen = leaf(xp, [1.0]), Tensor(xp.asarray([2.0]))
        y = x * frozen + frozen
        assert y.node().parents[0] is not None
        y.backward()
        assert frozen.grad is None
        assert not (frozen * frozen).requires_grad

    def test_a_leaf_that_is_gone_is_no_problem(self, xp):
        x, y = leaf(xp, [1.0]), leaf(xp, [2.0])
        z = x * y
        del x
        z.backward()
        assert_close(y.grad, np.array([1.0]))

    def test_new_data_after_the_forward_pass_does_not_change_its_gradient(self, xp):
        x, w = leaf(xp, [2.0]), leaf(xp, [3.0])
        y = x * w
        w.data = w.data * 100
        y.backward()
        assert_close(x.grad, np.array([3.0]))


class TestGradientsHaveMemoryOfTheirOwn:
    PASS_ON = {
        "add": lambda a, b: a + b,
        "add, three times": lambda a, b: a + b + a,
        "sub": lambda a, b: a - b,
        "concatenate": lambda a, b: shape_ops.concatenate([a, b]),
        "where": lambda a, b: shape_ops.where(a.data > 0, a, b),
        "reshape": lambda a, b: a.reshape(3, 2) + b.reshape(3, 2),
        "transpose": lambda a, b: a.T + b.T,
        "sums": lambda a, b: a.sum() + b.sum(),
        "mixed": lambda a, b: (a + b) * 2.0 + a - b.reshape(2, 3),
    }

    @pytest.mark.parametrize("name", PASS_ON)
    def test_no_two_leaves_share(self, xp, name):
        a, b = leaf(xp, np.ones((2, 3))), leaf(xp, -np.ones((2, 3)))
        y = self.PASS_ON[name](a, b)
        v = cotangent(y)
        y.backward(v)
        a_before, b_before, v_before = (to_numpy(g).copy() for g in (a.grad, b.grad, v))
        a.grad += 5
        assert_close(b.grad, b_before)
        b.grad *= 3
        assert_close(a.grad, a_before + 5)
        assert_close(v, v_before)

    def test_adding_in_place_never_reaches_another_gradient(self, xp):
        """`add` hands one array to both sides; each side then gets more added to it."""
        a, b = leaf(xp, [1.0, 2.0]), leaf(xp, [3.0, 4.0])
        first, second = a * 1.0, b * 1.0
        y = first + second
        (y + first * 10.0 + second * 100.0 + first * 1000.0).backward(xp.ones(2))
        assert_close(a.grad, np.full(2, 1011.0))
        assert_close(b.grad, np.full(2, 101.0))

    RETURNED = {
        "one array twice": lambda g: (g, g),
        "an array and a view of it": lambda g: (g, g.reshape(2)),
        "a view and its array": lambda g: (g.reshape(2), g),
        "two views": lambda g: (g.reshape(2), g.reshape(2)),
    }

    @pytest.mark.parametrize("name", RETURNED)
    @pytest.mark.parametrize("b_is_first", [False, True])
    def test_an_operation_may_hand_one_array_of_its_own_to_both_parents(self, xp, name, b_is_first):
        def add(a, b):
            return record(a.data + b.data, (a, b), lambda dy: self.RETURNED[name](dy * 1.0))

        a, b = leaf(xp, [1.0, 2.0]), leaf(xp, [3.0, 4.0])
        more = [b * 100.0, a * 10.0] if b_is_first else [a * 10.0, b * 100.0]  # visited in the reverse order
        (add(a, b) + more[0] + more[1]).backward(xp.ones(2))
        assert_close(a.grad, np.full(2, 11.0))
        assert_close(b.grad, np.full(2, 101.0))

    STEPS = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b * 0.5,
        "matmul": lambda a, b: (a @ b) * 0.5,
        "transpose": lambda a, b: a.T + b,
        "row": lambda a, b: a[0] + b,
        "column": lambda a, b: a - b[:, :1],
        "mean": lambda a, b: a.mean() + b,
        "neg": lambda a, b: -a,
        "tanh": lambda a, b: b.tanh(),
        "stack": lambda a, b: shape_ops.concatenate([a[1:], b[:1]]),
    }

    @examples
    @given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)), max_size=12))
    def test_any_graph_of_shared_tensors(self, xp, steps):
        """Each step takes any two earlier tensors; the result is the sum of all of them."""

        def graph(a, b):
            tensors = [a, b]
            for name, i, j in steps:
                tensors.append(self.STEPS[name](tensors[i % len(tensors)], tensors[j % len(tensors)]))
            total = tensors[-1] + tensors[0]
            for t in tensors[1:]:
                total = total + t
            return total

        rng = np.random.default_rng(0)
        a, b = (leaf(xp, rng.uniform(-1, 1, (2, 2))) for _ in range(2))
        gradcheck(graph, [a, b], rtol=1e-5, atol=1e-6)
        b_before = to_numpy(b.grad).copy()
        a.grad += 1
        assert_close(b.grad, b_before)


class TestErrors:
    def test_a_second_backward_says_that_the_graph_is_gone(self, xp):
        y = (leaf(xp, [1.0]) * 2.0).sum()
        y.backward()
        with pytest.raises(RuntimeError, match=r"already used by backward\(\).* run the forward pass again"):
            y.backward()

    def test_a_graph_that_shares_a_freed_part_says_so_and_adds_nothing(self, xp):
        x, w = leaf(xp, [1.0]), leaf(xp, [5.0])
        shared = x * 2.0
        shared.sum().backward()
        with pytest.raises(RuntimeError, match="already used by backward"):
            (shared * w).sum().backward()
        assert w.grad is None
        assert_close(x.grad, np.array([2.0]))

    def test_backward_needs_a_single_value(self, xp):
        with pytest.raises(RuntimeError, match=r"needs a single value, not shape \(2, 3\)"):
            leaf(xp, np.ones((2, 3))).backward()

    def test_backward_needs_a_tensor_that_requires_a_gradient(self, xp):
        with pytest.raises(RuntimeError, match="does not require a gradient"):
            Tensor(xp.ones(1)).backward()

    @pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 2, 3)])
    def test_a_cotangent_of_the_wrong_shape_is_named_beside_the_right_one(self, xp, shape):
        with pytest.raises(ValueError, match=r"must be an array of shape \(2, 3\)") as caught:
            (leaf(xp, np.ones((2, 3))) * 2.0).backward(xp.ones(shape))
        assert str(shape) in str(caught.value).replace("(2, 3)", "")

    @pytest.mark.parametrize("grad", [[1.0, 1.0], 1.0])
    def test_a_cotangent_that_is_no_array_is_refused(self, xp, grad):
        with pytest.raises(ValueError, match=r"must be an array of shape \(2,\)"):
            (leaf(xp, [1.0, 2.0]) * 2.0).backward(grad)


class TestLongChains:
    LENGTH = 10_000

    def chain(self, xp):
        x = leaf(xp, [1.0, 2.0])
        y = x
        for _ in range(self.LENGTH):
            y = y + 1.0
        return x, y

    def test_backward(self, xp):
        x, y = self.chain(xp)
        (y * y).sum().backward()
        assert_close(x.grad, 2 * (np.array([1.0, 2.0]) + self.LENGTH))

    def test_dropped_without_backward(self, xp):
        _, y = self.chain(xp)
        node = weakref.ref(y.node())
        del y
        assert node() is None

    def test_a_node_on_many_paths_is_visited_once(self, xp):
        """There are 2^200 ways from the end to the start."""
        x = leaf(xp, 1.0)
        y = x
        for _ in range(200):
            y = y + y
        y.backward()
        assert float(x.grad) == 2.0**200

    def test_one_tensor_used_many_times(self, xp):
        x = leaf(xp, [1.0, 2.0])
        total = x * 0.0
        for _ in range(1000):
            total = total + x
        total.sum().backward()
        assert_close(x.grad, np.full(2, 1000.0))


class TestNoGrad:
    def test_nothing_is_recorded(self, xp):
        x = leaf(xp, [1.0])
        with no_grad():
            assert not is_grad_enabled()
            y = x * 2.0
            z = F.linear(x, leaf(xp, [[1.0]]))
        assert is_grad_enabled()
        for t in (y, z):
            assert not t.requires_grad
            assert t._node is None
        assert (x * 2.0).requires_grad

    def test_blocks_nest_and_end_with_an_error(self, xp):
        with no_grad():
            with no_grad():
                pass
            assert not is_grad_enabled()
            with pytest.raises(KeyError), no_grad():
                raise KeyError
            assert not is_grad_enabled()
        assert is_grad_enabled()

    def test_a_graph_made_before_can_be_walked_inside(self, xp):
        x = leaf(xp, [3.0])
        y = x * x
        with no_grad():
            y.backward()
        assert_close(x.grad, np.array([6.0]))


SURVIVORS = [
    # operation on an activation h (4, 6), whether h itself must live on until backward
    ("add", lambda h, xp: h + 1.0, False),
    ("mul by a number", lambda h, xp: h * 2.0, False),
    ("mul by a frozen array", lambda h, xp: h * xp.ones((4, 6)), False),
    ("mul by a trained tensor", lambda h, xp: h * leaf(xp, np.ones(6)), True),
    ("div by a frozen array", lambda h, xp: h / xp.full(6, 2.0), False),
    ("exp", lambda h, xp: h.exp(), False),
    ("tanh", lambda h, xp: h.tanh(), False),
    ("sqrt", lambda h, xp: h.sqrt(), False),
    ("neg", lambda h, xp: -h, False),
    ("log", lambda h, xp: h.log(), True),
    ("power", lambda h, xp: h**2, True),
    ("embedding", lambda h, xp: shape_ops.embedding(h, xp.asarray([1, 1])), False),
    ("dropout", lambda h, xp: ops.dropout(h, 0.5), False),
    ("sum", lambda h, xp: h.sum(), False),
    ("mean", lambda h, xp: h.mean(axis=0), False),
    ("max", lambda h, xp: h.max(axis=0), True),
    ("concatenate", lambda h, xp: shape_ops.concatenate([h, xp.ones((1, 6))]), False),
    ("where", lambda h, xp: shape_ops.where(xp.ones((4, 6), bool), h, 0.0), False),
    ("integer index", lambda h, xp: h[xp.asarray([0, 0])], False),
    ("matmul, frozen", lambda h, xp: h @ xp.ones((6, 3)), False),
    ("matmul, trained", lambda h, xp: h @ leaf(xp, np.ones((6, 3))), True),
    ("linear, frozen", lambda h, xp: F.linear(h, xp.ones((3, 6)), xp.ones(3)), False),
    ("linear, bias trained", lambda h, xp: F.linear(h, xp.ones((3, 6)), leaf(xp, np.ones(3))), False),
    ("linear, trained", lambda h, xp: F.linear(h, leaf(xp, np.ones((3, 6)))), True),
    ("lora_linear, A trained", lambda h, xp: lora(h, xp, leaf(xp, np.ones((2, 6))), xp.ones((3, 2))), True),
    ("lora_linear, B trained", lambda h, xp: lora(h, xp, xp.ones((2, 6)), leaf(xp, np.ones((3, 2)))), False),
    ("layer_norm, frozen", lambda h, xp: F.layer_norm(h, xp.ones(6), xp.ones(6)), False),
    ("layer_norm, trained", lambda h, xp: F.layer_norm(h, leaf(xp, np.ones(6)), leaf(xp, np.ones(6))), False),
    ("gelu", lambda h, xp: F.gelu(h), False),
    ("gelu tanh", lambda h, xp: F.gelu(h, "tanh"), False),
    ("cross_entropy", lambda h, xp: F.cross_entropy(h, xp.asarray([0, 1, 2, 3])), False),
    ("linear_cross_entropy", lambda h, xp: F.linear_cross_entropy(h, xp.ones((9, 6)), xp.asarray([0, 1, 2, 3])), False),
    ("attention, as q", lambda h, xp: F.attention(heads(h), xp.ones((1, 2, 4, 3)), xp.ones((1, 2, 4, 3))), False),
    ("attention, as k", lambda h, xp: F.attention(xp.ones((1, 2, 4, 3)), heads(h), xp.ones((1, 2, 4, 3))), False),
    ("attention, as v", lambda h, xp: F.attention(xp.ones((1, 2, 4, 3)), xp.ones((1, 2, 4, 3)), heads(h)), False),
    ("attention, as q and k", lambda h, xp: F.attention(heads(h), heads(h), xp.ones((1, 2, 4, 3))), True),
]


def lora(h, xp, A, B):
    return F.lora_linear(h, xp.ones((3, 6)), None, A, B, 2.0)


def heads(h):
    return h.reshape(1, 4, 2, 3).swapaxes(1, 2)


class TestMemory:
    @pytest.mark.parametrize(("function", "survives"), [pytest.param(f, s, id=name) for name, f, s in SURVIVORS])
    def test_an_activation_lives_on_only_if_a_gradient_needs_it(self, xp, function, survives):
        h = leaf(xp, np.full((4, 6), 0.5)) + 1.0
        array = weakref.ref(h.data)
        y = function(h, xp)
        assert y.requires_grad
        del h
        assert (array() is not None) == survives
        y.backward(xp.ones_like(y.data))
        assert array() is None

    @pytest.mark.parametrize(("function", "survives"), [pytest.param(f, s, id=name) for name, f, s in SURVIVORS])
    def test_nothing_is_kept_without_gradients(self, xp, function, survives):
        with no_grad():
            h = leaf(xp, np.full((4, 6), 0.5)) + 1.0
            array = weakref.ref(h.data)
            y = function(h, xp)
        del h
        assert array() is None
        assert not y.requires_grad

    def test_a_frozen_input_is_not_kept_for_a_trained_weights_neighbour(self, xp):
        """x needs no gradient: the weight's needs x, but nothing needs the weight."""
        w = leaf(xp, np.ones((6, 3)))
        array = weakref.ref(w.data)
        y = xp.ones((4, 6)) @ w
        del w
        assert array() is None
        assert y.requires_grad

    def test_the_frozen_stem_of_a_model_leaves_no_graph(self, xp):
        h = Tensor(xp.ones((4, 6)))
        for _ in range(3):
            h = F.gelu(F.linear(h, xp.ones((6, 6)))) + h
        assert h._node is None

    def test_backward_frees_activations_while_the_loss_lives_on(self, xp):
        saved = []
        h = leaf(xp, np.full((4, 6), 0.1))
        for _ in range(5):
            h = (h * leaf(xp, np.ones(6))).tanh()
            saved.append(weakref.ref(h.data))
        loss = h.sum()
        del h
        assert all(s() is not None for s in saved)
        loss.backward()
        assert all(s() is None for s in saved)
        assert float(loss.data) > 0

    def test_backward_frees_each_activation_as_soon_as_it_has_been_used(self, xp):
        """When the walk arrives at the first operation, the later ones have let go of what they saved."""
        alive = []

        def probe(x):
            return record(x.data * 1, (x,), lambda dy: (alive.append(array() is not None) or dy * 1,))

        h = probe(leaf(xp, [1.0])).exp()
        array = weakref.ref(h.data)
        y = h.exp().sum()
        del h
        y.backward()
        assert alive == [False]

    def test_a_gradient_that_was_added_to_another_is_let_go_at_once(self, xp):
        made, alive = [], []

        def tracked(x):
            def backward(dy):
                d = dy * 1.0
                made.append(weakref.ref(d))
                return (d,)

            return record(x.data * 1.0, (x,), backward)

        def probe(x):
            return record(x.data * 1, (x,), lambda dy: (alive.extend(d() is not None for d in made) or dy * 1,))

        h = probe(leaf(xp, [1.0]))
        (tracked(h) + tracked(h)).backward()
        assert sorted(alive) == [False, True]  # the sum lives in one of the two

    def test_no_backward_function_holds_a_tensor(self, xp):
        loss, leaves = model(xp)
        nodes = graph_nodes(loss)
        assert len(nodes) > 40
        for node in nodes:
            held = captured(node.backward) if node.backward else []
            assert not [x for x in held if isinstance(x, (Tensor, Node))], node.backward.__qualname__
        assert {node.leaf() for node in nodes if node.leaf} == set(leaves)

    def test_a_node_holds_links_only(self, xp):
        node = (leaf(xp, [1.0]) * 2.0).node()
        assert not hasattr(node, "__dict__")
        assert all(parent is None or isinstance(parent, Node) for parent in node.parents)

    @pytest.mark.parametrize("with_backward", [True, False])
    def test_a_step_makes_no_reference_cycle(self, xp, with_backward):
        def step():
            loss, _ = model(xp)
            if with_backward:
                loss.backward()

        step()
        gc.collect()
        gc.disable()
        try:
            step()
            assert gc.collect() == 0
        finally:
            gc.enable()


class TestThreads:
    def test_no_grad_is_of_one_thread_alone(self, xp):
        inside, checked = threading.Event(), threading.Event()

        def other():
            with no_grad():
                inside.set()
                assert checked.wait(10)
                return is_grad_enabled()

        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(other)
            assert inside.wait(10)
            try:
                assert is_grad_enabled()
                assert (leaf(xp, [1.0]) * 2.0).requires_grad
            finally:
                checked.set()
            assert result.result() is False

    def test_a_new_thread_starts_with_gradients_on(self):
        with no_grad(), ThreadPoolExecutor(1) as pool:
            assert pool.submit(is_grad_enabled).result()

    def test_four_threads_build_graphs_at_once(self, xp):
        start = threading.Barrier(4)

        def train(_):
            start.wait(10)
            for _ in range(5):
                manual_seed(0)
                loss, leaves = model(xp)
                loss.backward()
            return [to_numpy(x.grad) for x in leaves]

        manual_seed(0)
        loss, leaves = model(xp)
        loss.backward()
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(train, range(4)):
                for g, x in zip(found, leaves, strict=True):
                    assert_close(g, x.grad)

    def test_threads_that_share_a_frozen_weight(self, xp):
        weight = Tensor(xp.asarray(np.arange(12.0).reshape(3, 4)))

        def gradient(i):
            x = leaf(xp, np.full((2, 4), float(i)))
            (F.linear(x, weight) ** 2).sum().backward()
            return to_numpy(x.grad)

        expected = [gradient(i) for i in range(8)]
        with ThreadPoolExecutor(4) as pool:
            for found, e in zip(pool.map(gradient, range(8)), expected, strict=True):
                assert_close(found, e)
        assert weight.grad is None


def test_a_small_transformer_agrees_with_central_differences(xp):
    def loss(table, scale, shift, qkv, w, b, A, B, head):
        manual_seed(0)
        x = shape_ops.embedding(table, xp.asarray([[0, 3, 3, 6]]))
        x = x + F.self_attention(F.linear(F.layer_norm(x, scale, shift), qkv, None, True), 2, dropout=0.2)
        y = F.gelu(F.lora_linear(x, w, b, A, B, 2.0, dropout=0.2), "tanh")
        return F.linear_cross_entropy(y, head, xp.asarray([[3, -100, 0, 6]]))

    _, leaves = model(xp)
    gradcheck(loss, leaves)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_the_numbers_and_no_memory_of_how_they_were_made(copied):
    leaf = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    (leaf * 3.0).sum().backward()
    result = leaf * 2.0
    for tensor in (leaf, result):
        other = copied(tensor)
        assert_close(other, tensor.data)
        assert other.requires_grad
        assert (other.grad is None) == (tensor.grad is None)
        before, other.grad = leaf.grad.copy(), None
        (other * other).sum().backward()
        assert_close(other.grad, 2 * tensor.data)
        assert_close(leaf.grad, before)
