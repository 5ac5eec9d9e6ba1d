"""Every CUDA pair against the plain formula of the same name, on odd shapes: results, gradients, what is left out."""

import itertools

import numpy as np
import pytest
from helpers import assert_close, by_reference, pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.gpu
few = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
size = st.sampled_from([1, 2, 3, 5, 8, 33])
width = st.sampled_from([1, 2, 7, 32, 65, 128, 768, 1030, 5000])


def arrays_of(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [None if shape is None else rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def compare(name, arrays, *options, every_needs=True):
    """The pair in CUDA and its plain formula in float64, for every choice of the gradients that are asked for."""
    import cupy

    from lora_np.autograd import cuda

    def on_gpu(x):
        return cupy.asarray(x) if isinstance(x, np.ndarray) else x

    expected, plain_backward = by_reference(name, arrays, *options)
    dout = np.random.default_rng(1).standard_normal(np.shape(expected)).astype(np.float32)
    gradients = plain_backward(dout)
    given_ones = [a is not None for a in arrays]
    choices = itertools.product(*((True, False) if g else (False,) for g in given_ones))
    for needs in choices if every_needs else [given_ones]:
        before = [None if a is None else cupy.asarray(a) for a in arrays]
        copies = [None if a is None else a.copy() for a in before]
        forward, backward = pair(cuda, name)
        found, cache = forward(*copies, *map(on_gpu, options), needs=tuple(needs))
        assert found.dtype == np.float32
        assert_close(found, expected, **CLOSE)
        if any(needs):
            for need, d, other in zip(needs, gradients, backward(cupy.asarray(dout), cache), strict=True):
                assert (other is not None) == need
                if need:
                    assert other.dtype == np.float32
                    tolerance = max(2e-5, 2e-5 * float(abs(d).max(initial=0)))
                    assert_close(other, d, rtol=2e-4, atol=tolerance)
        for a, b in zip(before, copies, strict=True):
            assert a is None or bool((a == b).all())


@few
@given(rows=size, C=width)
def test_layer_norm(rows, C):
    compare("layer_norm", arrays_of((rows, C), C, C), 1e-5)


@few
@given(rows=size, C=width)
def test_rms_norm(rows, C):
    compare("rms_norm", arrays_of((rows, C), C), 1e-6)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms_of_three_axes_and_of_nothing(name):
    extra = (5, 5) if name == "layer_norm" else (5,)
    compare(name, arrays_of((2, 3, 5), *extra))
    compare(name, arrays_of((0, 5), *extra))


@few
@given(rows=size, C=width, approximate=st.sampled_from(["none", "tanh"]))
def test_gelu(rows, C, approximate):
    (x,) = arrays_of((rows, C))
    compare("gelu", [x * 3], approximate)


@few
@given(rows=size, C=width)
def test_swiglu(rows, C):
    compare("swiglu", [3 * x for x in arrays_of((rows, C), (rows, C))])


def test_far_from_zero():
    x = np.array([-1e4, -100, -30, 0, 30, 100, 1e4], np.float32)
    for approximate in ("none", "tanh"):
        compare("gelu", [x], approximate)
    compare("swiglu", [x, np.ones_like(x)])


@few
@given(B=size, T=size, H=size, pairs=st.sampled_from([1, 3, 32]), rest=st.sampled_from([0, 1, 6]), by_row=st.booleans())
def test_rotary(B, T, H, pairs, rest, by_row):
    x, angle = arrays_of((B, T, H * (2 * pairs + rest)), (B, T, pairs) if by_row else (T, pairs))
    compare("rotary", [x], np.cos(angle), np.sin(angle), H)


@few
@given(rows=size, fan_in=width, fan_out=st.sampled_from([1, 3, 64, 257]), bias=st.booleans(), flipped=st.booleans())
def test_linear(rows, fan_in, fan_out, bias, flipped):
    weight = (fan_in, fan_out) if flipped else (fan_out, fan_in)
    compare("linear", arrays_of((rows, fan_in), weight, fan_out if bias else None), flipped)


@few
@given(
    rows=size,
    fan_in=st.sampled_from([1, 5, 130]),
    fan_out=st.sampled_from([1, 7, 96]),
    r=st.sampled_from([1, 4, 9]),
    bias=st.booleans(),
    flipped=st.booleans(),
    masked=st.booleans(),
)
def test_lora_linear(rows, fan_in, fan_out, r, bias, flipped, masked):
    weight = (fan_in, fan_out) if flipped else (fan_out, fan_in)
    arrays = arrays_of((rows, fan_in), weight, fan_out if bias else None, (r, fan_in), (fan_out, r))
    mask = np.random.default_rng(2).integers(0, 2, (rows, fan_in)).astype(np.float32) * 2 if masked else None
    compare("lora_linear", arrays, 1.7, flipped, mask, every_needs=False)


def test_lora_linear_for_every_choice_of_gradients():
    compare("lora_linear", arrays_of((3, 4, 5), (6, 5), 6, (2, 5), (6, 2)), 0.5)


@few
@given(
    B=st.integers(1, 3),
    K=st.integers(1, 3),
    G=st.integers(1, 3),
    T=st.sampled_from([1, 2, 33, 130]),
    more=st.sampled_from([0, 1, 40]),
    D=st.sampled_from([1, 8, 33]),
    causal=st.booleans(),
    masked=st.booleans(),
    padded=st.booleans(),
    scale=st.sampled_from([None, 0.3, -0.5]),
)
def test_attention(B, K, G, T, more, D, causal, masked, padded, scale):
    S = T + more
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 2, (B, K * G, T, S)).astype(np.float32) * 2 if masked else None
    key_mask = rng.random((B, S)) < 0.7 if padded else None
    if padded:
        key_mask[:, 0] = True  # every query sees something
    arrays = arrays_of((B, K * G, T, D), (B, K, S, D), (B, K, S, D))
    compare("attention", arrays, causal, scale, mask, key_mask)


@pytest.mark.parametrize(("T", "more"), [(512, 0), (600, 0), (513, 100), (1100, 3)])
@pytest.mark.parametrize("padded", [False, True])
def test_long_attention_in_stripes(T, more, padded):
    key_mask = np.random.default_rng(4).random((2, T + more)) < 0.5 if padded else None
    if padded:
        key_mask[:, 0] = True
    arrays = arrays_of((2, 2, T, 8), (2, 2, T + more, 8), (2, 2, T + more, 8))
    compare("attention", arrays, True, None, None, key_mask)


def test_more_keys_than_a_block_can_hold_are_refused():
    import cupy

    from lora_np.autograd import cuda

    q, k = cupy.ones((1, 1, 1, 2), np.float32), cupy.ones((1, 1, 16_385, 2), np.float32)
    with pytest.raises(ValueError, match="at most 16,384 keys, got 16,385"):
        cuda.attention_forward(q, k, k)
    y, _ = cuda.attention_forward(q, k[:, :, 1:], k[:, :, 1:])
    assert_close(y, np.ones((1, 1, 1, 2), np.float32), **CLOSE)


@few
@given(B=st.integers(1, 3), T=st.sampled_from([1, 3, 40]), H=st.integers(1, 3), D=st.sampled_from([1, 4, 32]))
def test_self_attention(B, T, H, D):
    compare("self_attention", arrays_of((B, T, 3 * H * D)), H)


def test_self_attention_with_all_options():
    rng = np.random.default_rng(5)
    mask = rng.integers(0, 2, (2, 2, 5, 5)).astype(np.float32) * 2
    key_mask = np.array([[True, False, True, True, True], [True] * 5])
    compare("self_attention", arrays_of((2, 5, 3 * 2 * 3)), 2, True, 0.7, mask, key_mask)


def test_a_query_that_sees_nothing_is_not_nan():
    import cupy

    from lora_np.autograd import cuda

    qkv = cupy.asarray(arrays_of((1, 3, 6))[0])
    y, cache = cuda.self_attention_forward(qkv, 1, key_mask=cupy.asarray([[False, False, True]]))
    (d,) = cuda.self_attention_backward(cupy.ones_like(y), cache)
    assert bool(cupy.isfinite(y).all())
    assert bool(cupy.isfinite(d).all())


def some_targets(rows, V, ignored):
    rng = np.random.default_rng(6)
    targets = rng.integers(0, V, rows)
    if ignored:
        targets[rng.random(rows) < 0.5] = -100
        targets[0] = 0
    return targets


@few
@given(rows=size, V=width, ignored=st.booleans())
def test_cross_entropy(rows, V, ignored):
    (logits,) = arrays_of((rows, V))
    compare("cross_entropy", [logits * 5], some_targets(rows, V, ignored))


@few
@given(rows=size, C=st.sampled_from([1, 6, 64]), V=width, ignored=st.booleans(), chunk=st.sampled_from([1, 10_000]))
def test_linear_cross_entropy(rows, C, V, ignored, chunk):
    targets = some_targets(rows, V, ignored)
    compare("linear_cross_entropy", arrays_of((rows, C), (V, C)), targets, -100)
    import cupy

    from lora_np.autograd import cuda

    x, weight = map(cupy.asarray, arrays_of((rows, C), (V, C)))
    whole, _ = cuda.linear_cross_entropy_forward(x, weight, targets)
    parts, _ = cuda.linear_cross_entropy_forward(x, weight, targets, chunk_bytes=4 * V * chunk // 5000)
    assert_close(parts, whole, **CLOSE)


@few
@given(rows=size, C=st.sampled_from([1, 6]), V=width, ignored=st.booleans())
def test_targets_on_the_host_and_on_the_gpu_give_the_same(rows, C, V, ignored):
    """On the host they choose the rows that are computed; on the GPU all rows are, and some weigh nothing."""
    import cupy

    from lora_np.autograd import cuda

    targets = some_targets(rows, V, ignored)
    logits, x, weight = map(cupy.asarray, arrays_of((rows, V), (rows, C), (V, C)))
    for name, arrays in (("cross_entropy", [logits]), ("linear_cross_entropy", [x, weight])):
        results = []
        for where in (targets, cupy.asarray(targets), cupy.asarray(targets.astype(np.int32))):
            loss, cache = getattr(cuda, f"{name}_forward")(*arrays, where, needs=(True,) * len(arrays))
            assert loss.dtype == np.float32
            results.append([loss, *getattr(cuda, f"{name}_backward")(cupy.asarray(np.float32(2)), cache)])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert a.dtype == b.dtype == np.float32
                assert_close(b, a, rtol=1e-5, atol=1e-6)
        ignored_rows = cupy.asarray(targets < 0)
        assert not bool(results[1][1][ignored_rows].any())


def test_rows_without_a_target_may_hold_anything():
    import cupy

    from lora_np.autograd import cuda

    logits = cupy.asarray([[0, 1, 2], [np.nan] * 3, [np.inf, 0, 0]], dtype=np.float32)
    loss, cache = cuda.cross_entropy_forward(logits, cupy.asarray([1, -100, -100]))
    (d,) = cuda.cross_entropy_backward(cupy.asarray(np.float32(1)), cache)
    expected, backward = by_reference("cross_entropy", [logits.get()[:1]], np.array([1]))
    assert_close(loss, np.asarray(expected), **CLOSE)
    assert_close(d[:1], backward(np.float32(1))[0], **CLOSE)
    assert not bool(d[1:].any())


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, -1e4, 0], [-1e30, -1e30, -1e30], [88, 89, 90]], np.float32)
    compare("cross_entropy", [logits], np.array([0, 1, 2]))
    compare("cross_entropy", [logits], np.array([1, 0, -100]))


def test_words_that_are_ruled_out_have_no_probability():
    logits = np.array([[-np.inf, 0, 1, -np.inf, 2], [-np.inf] * 4 + [3]], np.float32)
    compare("cross_entropy", [logits], np.array([2, 4]))


def test_numbers_that_do_not_begin_at_multiples_of_16_bytes():
    import cupy

    from lora_np.autograd import cuda

    def shifted(array):
        """The same numbers, four bytes off."""
        room = cupy.empty(array.size + 1, np.float32)
        room[1:] = cupy.asarray(array).ravel()
        return room[1:].reshape(array.shape)

    x, weight, bias, qkv = arrays_of((6, 8), (4, 8), 4, (2, 5, 3 * 2 * 4))
    y, _ = cuda.linear_forward(*map(shifted, (x, weight, bias)))
    assert_close(y, by_reference("linear", (x, weight, bias))[0], **CLOSE)
    y, _ = cuda.self_attention_forward(shifted(qkv), 2)
    assert_close(y, by_reference("self_attention", [qkv], 2)[0], **CLOSE)
    y, _ = cuda.cross_entropy_forward(shifted(x), np.arange(6))
    assert_close(y, by_reference("cross_entropy", [x], np.arange(6))[0], **CLOSE)


def test_inputs_that_are_not_contiguous():
    import cupy

    from lora_np.autograd import cuda

    x, w, b = arrays_of((8, 6), 3, 3)
    strided = cupy.asarray(x)[::2, ::2]
    assert_close(
        cuda.layer_norm_forward(strided, *map(cupy.asarray, (w, b)))[0],
        by_reference("layer_norm", (x[::2, ::2], w, b))[0],
        **CLOSE,
    )
    assert_close(cuda.gelu_forward(strided.T)[0], by_reference("gelu", [x[::2, ::2].T])[0], **CLOSE)
    weight = arrays_of((5, 3))[0]
    assert_close(
        cuda.linear_forward(strided, cupy.asarray(weight), None)[0],
        by_reference("linear", (x[::2, ::2], weight, None))[0],
        **CLOSE,
    )


@pytest.mark.parametrize("layout", ["plain", "transposed", "columns", "copy"])
@pytest.mark.parametrize("stack", [None, 1, 3])
def test_products_of_every_layout(layout, stack):
    import cupy

    from lora_np.autograd.cuda.blas import gemm
    from lora_np.autograd.cuda.blaslt import gemm_with_bias

    lead = () if stack is None else (stack,)
    a, b = arrays_of((*lead, 10, 14), (*lead, 14, 6))
    left, right = cupy.asarray(a), cupy.asarray(b)
    if layout == "transposed":
        left, right = (cupy.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) for x in (left, right))
    elif layout == "columns":
        left, right = (cupy.concatenate([x, x], axis=-1)[..., : x.shape[-1]] for x in (left, right))
    elif layout == "copy":
        left, right = (cupy.repeat(cupy.repeat(x, 2, -1), 2, -2)[..., ::2, ::2] for x in (left, right))
    assert_close(gemm(left, right), a @ b, **CLOSE)
    if stack is None:
        bias = arrays_of((6,), seed=1)[0]
        assert_close(gemm_with_bias(left, right, cupy.asarray(bias)), a @ b + bias, **CLOSE)
    out = cupy.ones((*lead, 10, 8), np.float32)
    gemm(left, right, out=out[..., :6], alpha=0.5, beta=2.0)
    assert_close(out[..., :6], 0.5 * (a @ b) + 2, **CLOSE)
    assert bool((out[..., 6:] == 1).all())


@few
@given(m=size, k=width, n=width, offsets=st.tuples(*[st.integers(0, 4)] * 3))
def test_products_with_a_bias_wherever_the_arrays_begin(m, k, n, offsets):
    import cupy

    from lora_np.autograd.cuda.blaslt import gemm_with_bias

    def placed(x, offset):
        room = cupy.zeros(offset + x.size, np.float32)
        room[offset:] = cupy.asarray(x).reshape(-1)
        return room[offset:].reshape(x.shape)

    a, b, bias = arrays_of((m, k), (k, n), (n,))
    found = gemm_with_bias(*map(placed, (a, b, bias), offsets))
    assert_close(found, a @ b + bias, rtol=2e-4, atol=1e-5 * np.sqrt(k))
    every_second = cupy.asarray(np.repeat(bias, 2))[::2]
    assert_close(
        gemm_with_bias(cupy.asarray(a), cupy.asarray(b), every_second), found, rtol=2e-4, atol=1e-5 * np.sqrt(k)
    )


@pytest.mark.parametrize("sizes", [(16, 16, 16), (33, 65, 128), (512, 768, 2304)])
@pytest.mark.parametrize("tf32", [False, True])
def test_products_with_a_bias_are_one_product(monkeypatch, sizes, tf32):
    import cupy

    from lora_np.autograd.cuda import blaslt
    from lora_np.autograd.precision import _precision

    def separate(*args):
        raise AssertionError("the bias was added afterwards")

    monkeypatch.setattr(blaslt, "gemm", separate)
    monkeypatch.setitem(_precision, "tf32", tf32)
    m, k, n = sizes
    a, b, bias = map(cupy.asarray, arrays_of((m, k), (k, n), (n,)))
    assert blaslt.gemm_with_bias(a, b, bias).shape == (m, n)


def test_products_with_a_bias_know_their_bias_again():
    import cupy

    from lora_np.autograd.cuda.blaslt import gemm_with_bias

    a, b = map(cupy.asarray, arrays_of((8, 16), (16, 12)))
    biases = [cupy.asarray(x) for x in arrays_of((12,), (12,), seed=3)]
    for bias in (*biases, biases[0]):  # one shape, one description: the bias must not be another's
        assert_close(gemm_with_bias(a, b, bias), gemm_with_bias(a, b, cupy.zeros_like(bias)) + bias, **CLOSE)


@few
@given(size=st.integers(0, 40), offsets=st.tuples(*[st.integers(0, 4)] * 2), into=st.booleans())
def test_sums_wherever_the_arrays_begin(size, offsets, into):
    import cupy

    from lora_np.autograd import dispatch

    x, y = (np.arange(size + o, dtype=np.float32) ** 2 for o in offsets)
    a, b = (cupy.asarray(z)[o:] for z, o in zip((x, y), offsets, strict=True))
    expected = x[offsets[0] :] + y[offsets[1] :]
    found = dispatch.add(a, b, into_x=into)
    assert_close(found, expected)
    assert (found is a) == into
    assert_close(dispatch.add(a, 2), a.get() + 2)
    assert_close(dispatch.add(a[::2], b[::2]), a.get()[::2] + b.get()[::2])


def test_products_of_nothing():
    import cupy

    from lora_np.autograd.cuda.blas import gemm

    assert gemm(cupy.zeros((0, 3), np.float32), cupy.zeros((3, 2), np.float32)).shape == (0, 2)
    assert_close(
        gemm(
            cupy.zeros((2, 0), np.float32),
            cupy.zeros((0, 2), np.float32),
            beta=0.0,
            out=cupy.full((2, 2), np.nan, np.float32),
        ),
        np.zeros((2, 2), np.float32),
    )
