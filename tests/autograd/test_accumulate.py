"""Who owns a gradient: nothing that somebody else holds is added to in place, or becomes a `.grad`."""

import weakref

import numpy as np
import pytest
from helpers import assert_close

from lora_np.autograd import Tensor, dispatch
from lora_np.autograd.accumulate import Gradients, held_once
from lora_np.autograd.devices import to_numpy
from lora_np.autograd.tensor import Node, collect_gradients, record


def leaf(xp, *values):
    return Tensor(xp.asarray(values, dtype="float64"), requires_grad=True)


class Dot:
    """y = Σ cᵢ xᵢ, an operation that keeps dx = c and returns it in one of several ways."""

    WAYS = {
        "the array itself": lambda c: c,
        "a view of all": lambda c: c[:],
        "a view in another shape, and back": lambda c: c.reshape(1, -1).reshape(-1),
        "part of a larger array": lambda c: c,  # see `__init__`
        "read-only": lambda c: c,
    }

    def __init__(self, xp, way):
        c = xp.asarray([2.0, 3.0])
        if way == "part of a larger array":
            self.larger = xp.concatenate([c, c])
            c = self.larger[:2]
        if way == "read-only" and xp is np:
            c.flags.writeable = False
        self.c, self.way = c, self.WAYS[way]

    def __call__(self, *inputs):
        total = sum((self.c * x.data).sum() for x in inputs)
        return record(total, inputs, lambda dy: (self.way(self.c),) * len(inputs))

    def check(self, *leaves):
        """c is as it was, and no leaf's gradient is in its memory."""
        assert_close(self.c, np.array([2.0, 3.0]))
        for x in leaves:
            x.grad += 1000
        assert_close(self.c, np.array([2.0, 3.0]))


@pytest.fixture(params=Dot.WAYS)
def dot(request, xp):
    return Dot(xp, request.param)


class TestAnArrayThatAnOperationKeeps:
    def test_used_once(self, xp, dot):
        x = leaf(xp, 1.0, 1.0)
        dot(x).backward()
        assert_close(x.grad, np.array([2.0, 3.0]))
        dot.check(x)

    def test_used_twice(self, xp, dot):
        x = leaf(xp, 1.0, 1.0)
        (dot(x) + dot(x)).backward()
        assert_close(x.grad, np.array([4.0, 6.0]))
        dot.check(x)

    @pytest.mark.parametrize("times", [3, 4, 5])
    def test_used_many_times(self, xp, dot, times):
        x = leaf(xp, 1.0, 1.0)
        total = dot(x)
        for _ in range(times - 1):
            total = total + dot(x)
        total.backward()
        assert_close(x.grad, times * np.array([2.0, 3.0]))
        dot.check(x)

    def test_used_beside_other_gradients(self, xp, dot):
        for kept_first in (True, False):
            x = leaf(xp, 1.0, 1.0)
            parts = [lambda x: dot(x), lambda x: (x * 10.0).sum(), lambda x: dot(x), lambda x: (x * 100.0).sum()]
            for part in parts if kept_first else parts[::-1]:
                part(x).backward()
            assert_close(x.grad, np.array([114.0, 116.0]))
            x.grad = None
            losses = [part(x) for part in (parts if kept_first else parts[::-1])]
            sum(losses[1:], losses[0]).backward()
            assert_close(x.grad, np.array([114.0, 116.0]))
            dot.check(x)

    def test_below_another_operation(self, xp, dot):
        """The kept array reaches a node that is no leaf, where more is added to it."""
        x = leaf(xp, 1.0, 1.0)
        h = x * 1.0
        (dot(h) + (h * 10.0).sum() + dot(h)).backward()
        assert_close(x.grad, np.array([14.0, 16.0]))
        dot.check(x)

    def test_for_two_inputs(self, xp, dot):
        x, y = leaf(xp, 1.0, 1.0), leaf(xp, 1.0, 1.0)
        (dot(x, y) + (x * 10.0).sum() + (y * 100.0).sum() + dot(y, x)).backward()
        assert_close(x.grad, np.array([14.0, 16.0]))
        assert_close(y.grad, np.array([104.0, 106.0]))
        before = to_numpy(y.grad).copy()
        dot.check(x)
        assert_close(y.grad, before)

    def test_for_one_input_twice(self, xp, dot):
        x = leaf(xp, 1.0, 1.0)
        dot(x, x).backward()
        assert_close(x.grad, np.array([4.0, 6.0]))
        dot.check(x)

    def test_by_two_operations(self, xp, dot):
        """Two results that share the kept array."""
        other = Dot(xp, "the array itself")
        other.c = dot.c
        x = leaf(xp, 1.0, 1.0)
        (dot(x) + other(x)).backward()
        assert_close(x.grad, np.array([4.0, 6.0]))
        dot.check(x)
        other.check(x)

    def test_in_a_tuple_that_it_keeps_too(self, xp):
        kept = (xp.asarray([2.0, 3.0]),)
        x = leaf(xp, 1.0, 1.0)
        losses = [record((kept[0] * x.data).sum(), (x,), lambda dy: kept) for _ in range(3)]
        (losses[0] + losses[1] + losses[2]).backward()
        assert_close(x.grad, np.array([6.0, 9.0]))
        assert_close(kept[0], np.array([2.0, 3.0]))
        x.grad += 1
        assert_close(kept[0], np.array([2.0, 3.0]))

    def test_known_only_by_a_view(self, xp):
        """The operation keeps a view of the memory, not the array that it returns."""
        c = xp.asarray([2.0, 3.0])
        kept = c[:]

        def dot(x):
            return record((kept * x.data).sum(), (x,), lambda dy: (kept.base,))

        x = leaf(xp, 1.0, 1.0)
        del c
        (dot(x) + dot(x)).backward()
        assert_close(x.grad, np.array([4.0, 6.0]))
        x.grad += 1
        assert_close(kept, np.array([2.0, 3.0]))

    def test_memory_of_another_object(self):
        memory = bytearray(np.array([2.0, 3.0]))

        def dot(x):
            return record(x.data.sum(), (x,), lambda dy: (np.frombuffer(memory),))

        x = leaf(np, 1.0, 1.0)
        (dot(x) + dot(x)).backward()
        assert_close(x.grad, np.array([4.0, 6.0]))
        x.grad += 1
        assert_close(np.frombuffer(memory), np.array([2.0, 3.0]))

    def test_collected_gradients(self, xp, dot):
        x = leaf(xp, 1.0, 1.0)
        found = collect_gradients(dot(x), xp.asarray(1.0))[id(x)]
        found += 1
        assert_close(dot.c, np.array([2.0, 3.0]))

    def test_the_gradient_that_backward_was_given(self, xp):
        x, v = leaf(xp, 1.0, 2.0), xp.asarray([1.0, 1.0])
        y = record(x.data * 1.0, (x,), lambda dy: (dy,))
        (y + y).backward(v)
        assert_close(x.grad, np.array([2.0, 2.0]))
        x.grad += 1
        assert_close(v, np.array([1.0, 1.0]))


class TestWhatNobodyElseHolds:
    def test_a_new_array_becomes_the_gradient_itself(self, xp):
        made = []

        def double(x):
            def backward(dy):
                d = dy * 2.0
                made.append(weakref.ref(d))
                return (d,)

            return record(x.data * 2.0, (x,), backward)

        x = leaf(xp, 1.0, 2.0)
        double(x).sum().backward()
        assert made[0]() is x.grad

    @pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
    def test_so_does_a_new_array_in_another_shape(self, xp, shape):
        made = []

        def double(x):
            def backward(dy):
                d = (dy * 2.0).reshape(shape)
                made.append(weakref.ref(d.base))
                return (d.reshape(2),)

            return record(x.data * 2.0, (x,), backward)

        x = leaf(xp, 1.0, 2.0)
        double(x).sum().backward()
        assert made[0]() is x.grad.base

    def test_the_second_gradient_is_added_to_the_first_in_place(self, xp, monkeypatch):
        added, add = [], dispatch.add

        def watched(x, y, into_x=False):
            added.append(into_x)
            return add(x, y, into_x)

        monkeypatch.setattr(dispatch, "add", watched)
        x = leaf(xp, 1.0, 2.0)
        losses = [(x * 2.0).sum() for _ in range(4)]
        total = losses[0] + losses[1] + losses[2] + losses[3]
        added.clear()
        total.backward()
        assert added == [True] * 3

    @pytest.mark.parametrize("residual", [lambda h: h + h.tanh(), lambda h: h.tanh() + h, lambda h: h + (-h)])
    def test_the_gradient_of_a_residual_connection_makes_no_new_array(self, xp, monkeypatch, residual):
        added, add = [], dispatch.add

        def watched(x, y, into_x=False):
            added.append(into_x)
            return add(x, y, into_x)

        y = residual(leaf(xp, 1.0, 2.0) * 1.0)
        monkeypatch.setattr(dispatch, "add", watched)
        y.backward(xp.ones(2))
        assert added == [True]

    def test_held_once(self, xp):
        assert held_once([xp.ones(3)], 0)
        assert held_once({"a": xp.ones((2, 3)).reshape(3, 2)}, "a")
        array = xp.ones(3)
        assert not held_once([array], 0)
        assert not held_once([array[:]], 0)
        assert not held_once([xp.ones(3)] * 2, 0)
        assert not held_once([xp.broadcast_to(xp.ones(1), (3,))], 0)
        assert not held_once([xp.ones((3, 2)).T], 0)
        first = [array := xp.ones(4), array.reshape(2, 2)]
        del array
        assert not held_once(first, 0)
        assert not held_once(first, 1)
        first.pop()
        assert held_once(first, 0)


class TestNoGradientAtAll:
    def nothing(self, *inputs):
        return record(inputs[0].data * 1.0, inputs, lambda dy: (dy * 1.0, *[None] * (len(inputs) - 1)))

    def test_an_input_that_needs_a_gradient_may_get_none(self, xp):
        x, unused = leaf(xp, 1.0), leaf(xp, 2.0)
        self.nothing(x, unused).backward()
        assert_close(x.grad, np.array([1.0]))
        assert unused.grad is None

    def test_what_lies_behind_it_gets_none_either(self, xp):
        x, unused = leaf(xp, 1.0), leaf(xp, 2.0)
        called = []
        behind = record(unused.data * 3.0, (unused,), lambda dy: (called.append(1) or dy * 3.0,))
        self.nothing(x, behind).backward()
        assert unused.grad is None
        assert called == []
        (x * unused).backward()
        assert_close(unused.grad, np.array([1.0]))

    def test_another_way_there_still_counts(self, xp):
        x, y = leaf(xp, 1.0), leaf(xp, 2.0)
        (self.nothing(x, y) + y * 5.0).backward()
        assert_close(y.grad, np.array([5.0]))

    def test_a_gradient_for_what_needs_none_is_passed_over(self, xp):
        grads = Gradients()
        grads.add([None], [xp.ones(2)])
        assert not grads

    def test_too_few_gradients_are_an_error(self, xp):
        x, y = leaf(xp, 1.0), leaf(xp, 2.0)
        with pytest.raises(ValueError, match="of 2 inputs returned 1 gradients"):
            record(x.data, (x, y), lambda dy: (dy,)).backward()


def test_a_sum_is_of_the_gradients_in_the_order_in_which_they_came(xp):
    node, grads = Node(), Gradients()
    values = [0.1, 0.2, 0.3, 1e16, -1e16]
    for value in values:
        grads.add([node], [xp.full(1, value)])
    assert_close(grads.pop_own(node), np.array([((0.1 + 0.2 + 0.3) + 1e16) - 1e16]), rtol=0, atol=0)
    assert node not in grads
