"""Every CUDA pair on numbers in 16 bits, against the plain formula in float64 on the same numbers, on odd shapes."""

import itertools

import numpy as np
import pytest
from helpers import by_reference, pair

from lora_np.autograd import fused
from lora_np.autograd.devices import to_numpy

pytestmark = pytest.mark.gpu
KINDS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half a unit in the last place, relative


def rounded(kind, *shapes, seed=0, scale=1.0):
    """Random arrays on the GPU, in 16 bits."""
    import cupy

    from lora_np import nn

    rng, dtype = np.random.default_rng(seed), nn.float_type(kind)
    return [
        None if shape is None else cupy.asarray((scale * rng.standard_normal(shape)).astype(np.float32)).astype(dtype)
        for shape in shapes
    ]


def exact(x):
    import cupy

    return to_numpy(x.astype(np.float64)) if isinstance(x, cupy.ndarray) and x.dtype != bool else x


def assert_near(found, expected, units, kind):
    """Off by at most so many halves of a unit in the last place of the largest number."""
    found, expected = np.asarray(to_numpy(found.astype(np.float32)), np.float64), np.asarray(expected)
    assert found.shape == expected.shape
    allowed = units * KINDS[kind] * max(1e-2, np.abs(expected).max(initial=0))
    worst = np.abs(found - expected).max(initial=0)
    assert worst <= allowed, f"off by {worst}, allowed {allowed}"


def compare(kind, name, arrays, *options, units=6, gradients_in=None):
    """The pair in CUDA and its plain formula, for every choice of the gradients that are asked for."""
    import cupy

    from lora_np.autograd import cuda

    in_float64 = [None if a is None else exact(a) for a in arrays]
    expected, plain_backward = by_reference(name, in_float64, *map(exact, options))
    dout = rounded(kind, np.shape(expected), seed=1)[0] if np.ndim(expected) else cupy.asarray(np.float32(0.7))
    gradients = plain_backward(exact(dout) if np.ndim(expected) else 0.7)
    given = [a is not None for a in arrays]
    forward, backward = pair(cuda, name)
    for needs in itertools.product(*((True, False) if g else (False,) for g in given)):
        found, cache = forward(*arrays, *options, needs=needs)
        assert found.dtype == (arrays[0].dtype if np.ndim(expected) else np.float32)
        assert_near(found, expected, units, kind)
        if not any(needs):
            continue
        for array, need, d, other in zip(arrays, needs, gradients, backward(dout, cache), strict=True):
            assert (other is not None) == need
            if need:
                assert other.dtype == array.dtype
                assert_near(other, d, 2 * units, kind)


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 7), (5, 64), (2, 768), (7, 1030), (0, 8)])
def test_norms(kind, rows, width):
    compare(kind, "layer_norm", rounded(kind, (rows, width), width, width))
    compare(kind, "rms_norm", rounded(kind, (rows, width), width))


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (33, 1030)])
def test_activations(kind, shape):
    compare(kind, "gelu", rounded(kind, shape, scale=3), "tanh")
    compare(kind, "gelu", rounded(kind, shape, scale=3), "none")
    compare(kind, "swiglu", rounded(kind, shape, shape, scale=2))


@pytest.mark.parametrize(("B", "T", "H", "pairs"), [(1, 1, 1, 1), (2, 5, 3, 3), (2, 7, 4, 32), (3, 9, 2, 64)])
@pytest.mark.parametrize("by_row", [False, True])
def test_rotary(kind, B, T, H, pairs, by_row):
    angle = np.random.default_rng(2).standard_normal((B, T, pairs) if by_row else (T, pairs)).astype(np.float32)
    import cupy

    turns = [cupy.asarray(f(angle)) for f in (np.cos, np.sin)]
    compare(kind, "rotary", rounded(kind, (B, T, 2 * pairs * H)), *turns, H)


@pytest.mark.parametrize(("rows", "fan_in", "fan_out"), [(1, 1, 1), (3, 5, 7), (33, 64, 96), (16, 768, 257)])
@pytest.mark.parametrize("flipped", [False, True])
def test_linear(kind, rows, fan_in, fan_out, flipped):
    weight = (fan_in, fan_out) if flipped else (fan_out, fan_in)
    compare(kind, "linear", rounded(kind, (rows, fan_in), weight, fan_out), flipped)
    compare(kind, "linear", rounded(kind, (rows, fan_in), weight, None), flipped)


@pytest.mark.parametrize(("rows", "fan_in", "fan_out", "r"), [(3, 5, 7, 1), (33, 64, 96, 4), (16, 768, 256, 8)])
@pytest.mark.parametrize("flipped", [False, True])
def test_lora_linear_beside_adapters_in_float32(kind, rows, fan_in, fan_out, r, flipped):
    weight = (fan_in, fan_out) if flipped else (fan_out, fan_in)
    x, w, bias, A, B = rounded(kind, (rows, fan_in), weight, fan_out, (r, fan_in), (fan_out, r))
    compare(kind, "lora_linear", [x, w, bias, A.astype(np.float32), B.astype(np.float32)], 1.5, flipped, units=12)


@pytest.mark.parametrize("with_cudnn", [False, True])
@pytest.mark.parametrize(
    ("B", "K", "G", "T", "S", "D"),
    [(1, 1, 1, 2, 2, 8), (2, 3, 1, 33, 33, 64), (2, 2, 4, 130, 130, 64), (1, 2, 2, 1, 40, 64), (1, 1, 3, 600, 600, 128),
     (2, 2, 1, 5, 5, 33)],
)  # fmt: skip
@pytest.mark.parametrize("causal", [True, False])
def test_attention(kind, monkeypatch, with_cudnn, B, K, G, T, S, D, causal):
    from lora_np.autograd.cuda import flash

    if with_cudnn and flash.library() is None:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    if not with_cudnn:
        monkeypatch.setattr(flash, "library", lambda: None)
    arrays = rounded(kind, (B, K * G, T, D), (B, K, S, D), (B, K, S, D))
    compare(kind, "attention", arrays, causal, None, units=12)


@pytest.mark.parametrize("with_cudnn", [False, True])
@pytest.mark.parametrize("window", [1, 5, 100, 1000])
@pytest.mark.parametrize(("B", "H", "K", "T", "D"), [(2, 4, 2, 33, 64), (1, 2, 2, 300, 128), (1, 3, 1, 600, 32)])
def test_attention_with_a_window(kind, monkeypatch, with_cudnn, window, B, H, K, T, D):
    """Beside the pair in float64, which tests/autograd/fused/test_bounded.py knows."""
    from lora_np.autograd.cuda import flash

    if with_cudnn and flash.library() is None:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    if not with_cudnn:
        monkeypatch.setattr(flash, "library", lambda: None)
    from lora_np.autograd import cuda

    arrays = rounded(kind, (B, H, T, D), (B, K, T, D), (B, K, T, D))
    options = (True, None, None, None, window)
    expected, expected_cache = fused.bounded_attention_forward(*map(exact, arrays), *options)
    forward, backward = pair(cuda, "bounded_attention")
    out, cache = forward(*arrays, *options)
    assert isinstance(cache, flash.Saved) == with_cudnn
    assert out.dtype == arrays[0].dtype
    assert_near(out, expected, 12, kind)
    dout = rounded(kind, out.shape, seed=1)[0]
    gradients = fused.bounded_attention_backward(exact(dout), expected_cache)
    for found, other in zip(backward(dout, cache), gradients, strict=True):
        assert_near(found, other, 24, kind)


@pytest.mark.parametrize("with_cudnn", [False, True])
@pytest.mark.parametrize(("B", "T", "H", "D"), [(1, 2, 1, 8), (2, 40, 3, 64), (2, 513, 2, 64), (3, 5, 2, 7)])
def test_self_attention(kind, monkeypatch, with_cudnn, B, T, H, D):
    from lora_np.autograd.cuda import flash

    if with_cudnn and flash.library() is None:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    if not with_cudnn:
        monkeypatch.setattr(flash, "library", lambda: None)
    compare(kind, "self_attention", rounded(kind, (B, T, 3 * H * D)), H, units=12)


@pytest.mark.parametrize(("rows", "V"), [(1, 1), (5, 7), (8, 257), (33, 5000)])
@pytest.mark.parametrize("ignored", [False, True])
def test_losses(kind, rows, V, ignored):
    targets = np.random.default_rng(6).integers(0, V, rows)
    targets[1:][np.random.default_rng(7).random(rows - 1) < (0.5 if ignored else 0)] = -100
    compare(kind, "cross_entropy", rounded(kind, (rows, V), scale=3), targets)
    compare(kind, "linear_cross_entropy", rounded(kind, (rows, 64), (V, 64), scale=0.3), targets, -100, units=12)


def test_sums_and_products_keep_their_dtype(kind):
    from lora_np.autograd.cuda import add, matmul

    x, y, w = rounded(kind, (6, 16), (6, 16), (16, 5))
    assert add(x, y).dtype == matmul(x, w).dtype == x.dtype
    assert_near(add(x, y), exact(x) + exact(y), 2, kind)
    assert_near(matmul(x, w), exact(x) @ exact(w), 2, kind)
