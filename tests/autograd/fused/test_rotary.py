"""Rotary positions against complex multiplication, central differences and Transformers."""

import numpy as np
import pytest
from helpers import assert_close, check_pair, compare_with_torch

from lora_np.autograd import functional as F
from lora_np.autograd import fused
from lora_np.autograd.devices import to_numpy


def angles(positions, half):
    return np.asarray(positions)[..., None] * 10.0 ** -np.arange(half)


def formula(x, angle, heads):
    """A pair of channels is a complex number; turning it is one multiplication."""
    B, T, width = x.shape
    x = x.reshape(B, T, heads, 2, width // heads // 2)
    turned = (x[..., 0, :] + 1j * x[..., 1, :]) * np.exp(1j * angle)[..., None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1).transpose(0, 2, 1, 3)


@pytest.mark.parametrize(("heads", "half"), [(1, 1), (2, 1), (3, 2), (1, 4)])
@pytest.mark.parametrize("positions", [[0, 1, 2, 3], [7, 8, 9, 10], [[0, 0, 0, 1], [2, 3, 4, 5]]], ids=str)
def test_rotary(xp, rng, positions, heads, half):
    x = rng.standard_normal((2, 4, heads * 2 * half))
    angle = angles(positions, half)
    cos, sin = xp.asarray(np.cos(angle)), xp.asarray(np.sin(angle))
    y, _ = fused.rotary_forward(xp.asarray(x), cos, sin, heads)
    assert_close(y, formula(x, angle, heads))
    check_pair("rotary", [xp.asarray(x)], cos, sin, heads)


def test_the_product_of_a_query_and_a_key_depends_on_their_distance_alone(xp, rng):
    q, k = rng.standard_normal((2, 1, 1, 8))

    def product(i, j):
        turned = []
        for x, position in ((q, i), (k, j)):
            angle = angles([position], 4)
            turned.append(
                to_numpy(fused.rotary_forward(xp.asarray(x), *map(xp.asarray, (np.cos(angle), np.sin(angle))), 1)[0])
            )
        return float((turned[0] * turned[1]).sum())

    assert abs(product(3, 1) - product(12, 10)) < 1e-10
    assert abs(product(3, 1) - product(3, 2)) > 1e-3


@pytest.mark.parametrize(
    ("width", "heads", "shape"),
    [(6, 2, (3, 2)), (7, 2, (3, 1)), (8, 2, (3, 4)), (8, 2, (2, 2)), (8, 2, (1, 3, 2)), (8, 3, (3, 2))],
)
def test_shapes_that_do_not_fit_are_named(xp, width, heads, shape):
    with pytest.raises(ValueError, match=rf"rotary: x \(2, 3, {width}\) in {heads} heads does not go with"):
        F.rotary(xp.ones((2, 3, width)), xp.ones(shape), xp.ones(shape), heads)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rotary_like_transformers(xp, rng, dtype):
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    angle = angles([[0, 1, 2], [5, 6, 7]], 4)
    cos, sin = np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)

    def theirs(x):
        x = x.view(2, 3, 2, 8).transpose(1, 2)
        both = [torch.tensor(np.concatenate([a, a], axis=-1)) for a in (cos, sin)]
        return apply_rotary_pos_emb(x, x, *both)[0]

    def ours(x):
        return F.rotary(x, xp.asarray(cos), xp.asarray(sin), 2)

    compare_with_torch(ours, theirs, [rng.standard_normal((2, 3, 16))], xp, dtype)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pairs", [0, 1, 3])
def test_a_part_of_each_head_like_transformers(xp, rng, dtype, pairs):
    import torch
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

    angle = rng.standard_normal((2, 3, pairs))
    cos, sin = np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)

    def theirs(x):
        x = x.view(2, 3, 2, 7).transpose(1, 2)
        both = [torch.tensor(np.concatenate([a, a], axis=-1)) for a in (cos, sin)]
        return apply_rotary_pos_emb(x, x, *both)[0]

    def ours(x):
        return F.rotary(x, xp.asarray(cos), xp.asarray(sin), 2)

    compare_with_torch(ours, theirs, [rng.standard_normal((2, 3, 14))], xp, dtype)
