"""The fused pairs on Tensors: options reach them, frozen inputs stay frozen, and wrong shapes are named."""

import re

import numpy as np
import pytest
from helpers import assert_close, check_gradients, gradients

from lora_np import manual_seed
from lora_np.autograd import Tensor, fused, no_grad
from lora_np.autograd import functional as F
from lora_np.autograd.devices import to_numpy

# name -> function of Tensors, and the shapes of what can be trained
OPERATIONS = {
    "linear": (F.linear, [(2, 4, 3), (5, 3), (5,)]),
    "linear, no bias": (lambda x, w: F.linear(x, w), [(2, 3), (5, 3)]),
    "linear, flipped": (lambda x, w, b: F.linear(x, w, b, True), [(2, 3), (3, 5), (5,)]),
    "linear, square and flipped": (lambda x, w: F.linear(x, w, fan_in_fan_out=True), [(2, 3), (3, 3)]),
    "lora_linear": (lambda *i: F.lora_linear(*i, 0.5), [(2, 3), (5, 3), (5,), (2, 3), (5, 2)]),
    "lora_linear, no bias": (lambda x, w, A, B: F.lora_linear(x, w, None, A, B, 2), [(2, 3), (5, 3), (2, 3), (5, 2)]),
    "lora_linear, flipped": (lambda *i: F.lora_linear(*i, 0.5, True), [(2, 3), (3, 5), (5,), (2, 3), (5, 2)]),
    "lora_linear, dropout": (lambda *i: F.lora_linear(*i, 0.5, dropout=0.4), [(2, 3), (5, 3), (5,), (2, 3), (5, 2)]),
    "layer_norm": (F.layer_norm, [(2, 3, 4), (4,), (4,)]),
    "layer_norm, eps": (lambda *i: F.layer_norm(*i, eps=0.5), [(3, 4), (4,), (4,)]),
    "gelu": (F.gelu, [(2, 3)]),
    "gelu tanh": (lambda x: F.gelu(x, "tanh"), [(2, 3)]),
    "attention": (F.attention, [(1, 2, 3, 2)] * 3),
    "attention, not causal": (lambda *i: F.attention(*i, causal=False), [(1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2)]),
    "attention, scale and dropout": (lambda *i: F.attention(*i, scale=0.2, dropout=0.3), [(2, 1, 3, 2)] * 3),
    "self_attention": (lambda x: F.self_attention(x, 2), [(2, 3, 12)]),
    "cross_entropy": (lambda z: F.cross_entropy(z, [[1, -100, 0], [3, 3, 2]]), [(2, 3, 4)]),
    "linear_cross_entropy": (lambda x, w: F.linear_cross_entropy(x, w, [1, -100, 0]), [(3, 2), (4, 2)]),
}


LOSSES = ("cross_entropy", "linear_cross_entropy")


def seeded(function):
    def with_seed(*inputs):
        manual_seed(2)
        return function(*inputs)

    return with_seed


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_subset_of_inputs_can_be_frozen(xp, rng, name):
    function, shapes = OPERATIONS[name]
    check_gradients(seeded(function), *(xp.asarray(rng.standard_normal(shape)) for shape in shapes))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_is_kept(xp, rng, name, dtype):
    """But a loss is a sum over a batch, which is in float32 at least."""
    function, shapes = OPERATIONS[name]
    y, found = gradients(function, [xp.asarray(rng.standard_normal(shape).astype(dtype)) for shape in shapes])
    assert y.dtype == ("float32" if name in LOSSES and dtype == "float16" else dtype)
    assert {g.dtype for g in found} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", OPERATIONS)
def test_arrays_give_the_same_values_and_no_graph(xp, rng, name):
    function, shapes = OPERATIONS[name]
    arrays = [xp.asarray(rng.standard_normal(shape)) for shape in shapes]
    trained, _ = gradients(seeded(function), arrays)
    plain = seeded(function)(*(Tensor(a) for a in arrays))
    with no_grad():
        quiet = seeded(function)(*(Tensor(a, requires_grad=True) for a in arrays))
    for y in (plain, quiet):
        assert not y.requires_grad
        assert_close(y, trained)


def test_the_options_have_the_documented_defaults(xp, rng):
    x, q = Tensor(xp.asarray(rng.standard_normal((2, 4)))), Tensor(xp.asarray(rng.standard_normal((1, 1, 3, 4))))
    ones = xp.ones(4)
    assert_close(F.gelu(x), F.gelu(x, "none"))
    assert_close(F.layer_norm(x, ones, ones), F.layer_norm(x, ones, ones, eps=1e-5))
    assert_close(F.attention(q, q, q), F.attention(q, q, q, causal=True, scale=0.5, dropout=0.0))


def test_frozen_gradients_are_not_computed(xp, monkeypatch):
    """The backward of a LoRA layer makes A's and B's gradient and nothing else."""
    made, original = [], fused.lora_linear_backward

    def spy(dout, cache):
        made.extend(original(dout, cache))
        return tuple(made)

    monkeypatch.setattr(fused, "lora_linear_backward", spy)
    A, B = (Tensor(xp.ones(shape), requires_grad=True) for shape in ((2, 3), (4, 2)))
    F.lora_linear(Tensor(xp.ones((5, 3))), Tensor(xp.ones((4, 3))), Tensor(xp.ones(4)), A, B, 1.0).sum().backward()
    assert [g is not None for g in made] == [False, False, False, True, True]


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_lora_dropout_touches_the_branch_alone(xp, p):
    x, eye = Tensor(xp.ones((300, 4))), xp.asarray(np.eye(4))
    y = to_numpy(F.lora_linear(x, 10 * eye, None, eye, eye, 1.0, dropout=p).data)
    assert set(np.round(np.unique(y), 10)) == {10.0, round(10 + 1 / (1 - p), 10)}
    assert abs((y == 10).mean() - p) < 0.05


@pytest.mark.parametrize("p", [1, 1.5, -0.5])
@pytest.mark.parametrize("which", ["lora_linear", "attention", "self_attention"])
def test_a_dropout_probability_out_of_range_is_named(xp, which, p):
    ones = {
        "lora_linear": [xp.ones((2, 3)), xp.ones((4, 3)), xp.ones(4), xp.ones((2, 3)), xp.ones((4, 2)), 1.0],
        "attention": [xp.ones((1, 1, 2, 2))] * 3,
        "self_attention": [xp.ones((1, 2, 6)), 1],
    }[which]
    with pytest.raises(ValueError, match=rf"dropout probability must be in \[0, 1\), got {p}"):
        getattr(F, which)(*ones, dropout=p)


@pytest.mark.parametrize(
    ("call", "width", "shape"),
    [
        (lambda one: F.linear(one(2, 4), one(5, 3)), 3, (2, 4)),
        (lambda one: F.linear(one(2, 3), one(5, 3), None, True), 5, (2, 3)),
        (lambda one: F.lora_linear(one(2, 4), one(5, 3), None, one(2, 3), one(5, 2), 1.0), 3, (2, 4)),
        (lambda one: F.layer_norm(one(2, 4), one(3), one(3)), 3, (2, 4)),
        (lambda one: F.layer_norm(one(), one(3), one(3)), 3, ()),
        (lambda one: F.linear_cross_entropy(one(2, 4), one(5, 3), [0, 0]), 3, (2, 4)),
    ],
)
def test_a_wrong_width_is_named(xp, call, width, shape):
    with pytest.raises(ValueError, match=rf"expects a last axis of length {width}, got shape") as caught:
        call(lambda *shape: Tensor(xp.ones(shape)))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda one, bias: F.linear(one(2, 3), one(4, 3), bias),
        lambda one, bias: F.linear(one(2, 3), one(3, 4), bias, True),
        lambda one, bias: F.lora_linear(one(2, 3), one(4, 3), bias, one(2, 3), one(4, 2), 1.0),
        lambda one, bias: F.layer_norm(one(2, 4), one(4), bias),
    ],
    ids=["linear", "linear, flipped", "lora_linear", "layer_norm"],
)
@pytest.mark.parametrize("length", [1, 5])
def test_a_bias_of_the_wrong_length_is_named(xp, call, length):
    """Length 1 would broadcast, and its gradient would have the wrong shape."""
    with pytest.raises(ValueError, match=rf"\({length},\)"):
        call(lambda *shape: Tensor(xp.ones(shape)), Tensor(xp.ones(length), requires_grad=True))


@pytest.mark.parametrize(("A", "B"), [((2, 4), (5, 2)), ((2, 3), (4, 2)), ((2, 3), (5, 3)), ((3, 2), (2, 5))])
def test_adapters_that_do_not_fit_are_named(xp, A, B):
    ones = [xp.ones(s) for s in ((2, 3), (5, 3), (5,), A, B)]
    with pytest.raises(
        ValueError, match=r"beside a 3 -> 5 layer, lora_A must be \(r, 3\) and lora_B \(5, r\)"
    ) as caught:
        F.lora_linear(*ones, 1.0)
    assert f"{A} and {B}" in str(caught.value)


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3, 4)] * 3,
        [(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5, 4)],
        [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)],
        [(1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)],
        [(1, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)],
    ],
)
def test_attention_names_shapes_that_do_not_fit(xp, shapes):
    with pytest.raises(ValueError, match=r"attention: .* do not fit") as caught:
        F.attention(*(Tensor(xp.ones(s)) for s in shapes))
    for shape in shapes:
        assert str(shape) in str(caught.value)


def test_causal_attention_with_fewer_keys_than_queries_is_refused(xp):
    """The first queries would see no key at all: a softmax over nothing."""
    q, k = Tensor(xp.ones((1, 1, 3, 2))), Tensor(xp.ones((1, 1, 2, 2)))
    assert F.attention(q, k, k, causal=False).shape == (1, 1, 3, 2)
    with pytest.raises(ValueError, match=r"attention: .*q \(1, 1, 3, 2\).*k \(1, 1, 2, 2\)"):
        F.attention(q, k, k)


@pytest.mark.parametrize(("shape", "heads"), [((2, 3, 10), 2), ((2, 3, 6), 4), ((3, 6), 1), ((1, 2, 3, 6), 1)])
def test_self_attention_names_a_shape_that_does_not_fit(xp, shape, heads):
    with pytest.raises(ValueError, match=rf"self_attention: expected \(B, T, 3·{heads}·D\), got shape") as caught:
        F.self_attention(Tensor(xp.ones(shape)), heads)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("approximate", ["erf", None, True])
def test_gelu_names_an_unknown_form(xp, approximate):
    with pytest.raises(ValueError, match=rf"approximate must be 'none' or 'tanh', got {approximate!r}"):
        F.gelu(Tensor(xp.ones(2)), approximate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (4, 2, 6)}, "lora_rows expects a last axis of length 3, got shape (4, 2, 6)"),
        ({"y": (4, 2, 6), "B": (2, 1, 5)}, "lora_rows expects a last axis of length 5, got shape (4, 2, 6)"),
        ({"B": (2, 3, 5)}, "A (n, r, in) and B (n, r, out) do not fit the rest: (2, 1, 3) and (2, 3, 5)"),
        ({"y": (3, 2, 5)}, "x (4, 2, 3), y (3, 2, 5), 2 scalings"),
        ({"scalings": [1.0]}, "1 scalings"),
        ({"y": (3, 2, 5), "x": (3, 2, 3)}, "2 adapters need rows (2, c) of the 3 in the batch, got no rows"),
        ({"rows": np.array([0, 1])}, "2 adapters need rows (2, c) of the 4 in the batch, got rows (2,)"),
    ],
    ids=str,
)
def test_rows_that_do_not_fit_are_named(xp, changes, message):
    shapes = {"y": (4, 2, 5), "x": (4, 2, 3), "A": (2, 1, 3), "B": (2, 1, 5), "scalings": [1.0, 2.0], "rows": None}
    given = [xp.zeros(value) if isinstance(value, tuple) else value for value in {**shapes, **changes}.values()]
    with pytest.raises(ValueError, match=re.escape(message)):
        F.lora_rows(*given)
