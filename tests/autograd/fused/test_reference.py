"""The plain formulas: right by central differences, and what the fast pairs compute for random shapes and options."""

import inspect

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from helpers import (
    TOLERANCE,
    assert_close,
    assert_same_gradients,
    by_reference,
    check_differences,
    cotangent,
    examples,
    pair,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_np.autograd import fused
from lora_np.autograd.devices import is_array, is_float
from lora_np.autograd.fused import reference

size, flag = st.integers(1, 4), st.booleans()
leading = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def linear(draw, normal):
    lead, fan_in, fan_out, flipped = draw(leading), draw(size), draw(size), draw(flag)
    weight = normal((fan_in, fan_out) if flipped else (fan_out, fan_in))
    return [normal((*lead, fan_in)), weight, normal(fan_out) if draw(flag) else None], [flipped]


def lora_linear(draw, normal):
    (x, weight, bias), (flipped,) = linear(draw, normal)
    r, fan_out = draw(size), weight.shape[1 if flipped else 0]
    arrays = [x, weight, bias, normal((r, x.shape[-1])), normal((fan_out, r))]
    return arrays, [0.75, flipped, dropout(draw, x.shape)]


def layer_norm(draw, normal):
    (x, weight), options = rms_norm(draw, normal)
    return [x, weight, normal(weight.shape)], options


def rms_norm(draw, normal):
    C = draw(size)
    return [normal((*draw(leading), C)), normal(C)], [draw(st.sampled_from([1e-5, 0.3]))]


def gelu(draw, normal):
    return activation(draw, normal)[0], [draw(st.sampled_from(["none", "tanh"]))]


def activation(draw, normal):
    return [2 * normal(draw(leading))], []


def swiglu(draw, normal):
    shape = draw(leading)
    return [2 * normal(shape), normal(shape)], []


def rotary(draw, normal):
    B, T, H, pairs = (draw(size) for _ in range(4))
    angle, D = normal((B, T, pairs) if draw(flag) else (T, pairs)), 2 * pairs + draw(st.integers(0, 3))
    return [normal((B, T, H * D))], [np.cos(angle), np.sin(angle), H]


def attention(draw, normal):
    B, K, T, D = (draw(size) for _ in range(4))
    H, S = K * draw(size), T + draw(st.integers(0, 3))
    arrays = [normal((B, H, T, D)), normal((B, K, S, D)), normal((B, K, S, D))]
    return arrays, attention_options(draw, B, H, T, S)


def self_attention(draw, normal):
    B, T, H, D = (draw(size) for _ in range(4))
    return [normal((B, T, 3 * H * D))], [H, *attention_options(draw, B, H, T, T)]


def attention_options(draw, B, H, T, S):
    """causal, scale, mask, key_mask. The first key always counts, so that every query sees one."""
    key_mask = draw(hnp.arrays(bool, (B, S))) if draw(flag) else None
    if key_mask is not None:
        key_mask[:, 0] = True
    return [draw(flag), draw(st.sampled_from([None, 0.3, -0.5])), dropout(draw, (B, H, T, S)), key_mask]


def dropout(draw, shape):
    return draw(hnp.arrays(bool, shape)) / 0.5 if draw(flag) else None


def cross_entropy(draw, normal):
    V = draw(st.integers(2, 5))
    targets = draw_targets(draw, V)
    return [3 * normal((len(targets[0]), V))], targets


def linear_cross_entropy(draw, normal):
    V, C = draw(st.integers(2, 5)), draw(size)
    targets = draw_targets(draw, V)
    return [normal((len(targets[0]), C)), normal((V, C))], targets


def draw_targets(draw, V):
    """Targets, at least one of which counts, and the value that does not; it may be a word's number."""
    ignored = draw(st.sampled_from([-100, 0]))
    targets = draw(st.lists(st.integers(0, V - 1) | st.just(ignored), max_size=8))
    return [np.array([*targets, V - 1]), ignored]


# For each operation, a function that draws arrays, which have gradients, and options.
OPERATIONS = {
    "linear": linear,
    "lora_linear": lora_linear,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "gelu": gelu,
    "silu": activation,
    "swiglu": swiglu,
    "relu": activation,
    "rotary": rotary,
    "attention": attention,
    "self_attention": self_attention,
    "cross_entropy": cross_entropy,
    "linear_cross_entropy": linear_cross_entropy,
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def drawn(name, data, cast):
    """Arrays and options of an operation; numbers go through `cast`."""

    arrays, options = OPERATIONS[name](data.draw, np.random.default_rng(0).standard_normal)
    return [[cast(x) if is_array(x) else x for x in some] for some in (arrays, options)]


def test_the_table_is_complete():
    """But for those that have a file of their own: test_bounded.py, test_rows.py, test_texts.py."""
    others = {"bounded_attention", "capped_cross_entropy", "lora_rows", "text_attention"}
    assert {f"{name}_{way}" for name in {*OPERATIONS, *others} for way in ("forward", "backward")} == {
        name for name in fused.__all__ if name.endswith(("_forward", "_backward"))
    }


@every_operation
def test_signatures_are_those_of_the_fast_pairs(name):
    plain, fast = (inspect.signature(pair(place, name)[0]).parameters for place in (reference, fused))
    speed_alone = {"out", "chunk_bytes"}  # say where and how, not what
    assert list(plain) == [parameter for parameter in fast if parameter not in speed_alone]
    for parameter in set(plain) - {"needs"}:
        assert plain[parameter].default == fast[parameter].default


@every_operation
@settings(examples, max_examples=20)
@given(data=st.data())
def test_plain_gradients_by_central_differences(xp, name, data):
    arrays, options = drawn(name, data, xp.asarray)
    if name == "gelu" and xp is not np:
        options = ["tanh"]  # the exact form is the one operation that runs in NumPy alone
    check_differences(*pair(reference, name), arrays, *options)


def compare(name, arrays, options, needs, **tolerance):
    """The fast pair's result and gradients are the plain one's, and of the inputs' dtype."""
    forward, backward = pair(fused, name)
    out, cache = forward(*arrays, *options, needs=needs)
    plain, plain_backward = by_reference(name, arrays, *options)
    assert_close(out, plain, **tolerance)
    assert out.dtype == arrays[0].dtype
    if any(needs):
        dout = cotangent(out)
        gradients = backward(dout, cache)
        assert_same_gradients(gradients, plain_backward(dout), needs, **tolerance)
        assert all(d is None or d.dtype == arrays[0].dtype for d in gradients)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@every_operation
@examples
@given(data=st.data())
def test_the_fast_pair_is_the_plain_one(xp, name, dtype, data):
    arrays, options = drawn(name, data, lambda x: xp.asarray(x, dtype if is_float(x) else x.dtype))
    needs = tuple(a is not None and data.draw(flag) for a in arrays)
    compare(name, arrays, options, needs, **({} if dtype == "float64" else TOLERANCE[dtype]))


@pytest.mark.parametrize(
    ("name", "shapes", "options"),
    [
        ("gelu", [(50, 2000)], ["none"]),  # 800 kB: two blocks of what fits a processor's cache
        ("gelu", [(50, 2000)], ["tanh"]),
        ("swiglu", [(50, 2000)] * 2, []),
        ("layer_norm", [(700, 120), 120, 120], []),
        ("rms_norm", [(700, 120), 120], []),
        ("attention", [(3, 2, 130, 4)] * 3, [True]),  # 270 kB of probabilities a sequence, and two stripes of queries
        ("attention", [(3, 2, 130, 4)] * 3, [False]),
    ],
    ids=str,
)
def test_more_than_one_block(xp, rng, name, shapes, options):
    arrays = [xp.asarray(rng.standard_normal(shape)) for shape in shapes]
    compare(name, arrays, options, (True,) * len(arrays))
