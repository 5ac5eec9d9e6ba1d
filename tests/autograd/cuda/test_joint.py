"""Layers that read one input, in fewer passes: as one by one."""

import itertools

import numpy as np
import pytest

from lora_np import Tensor, nn
from lora_np.autograd import functional as F
from lora_np.autograd.joint import linears

pytestmark = pytest.mark.gpu


def leaves(rng, kind, adapters, x_learns=True):
    import cupy

    dtype = nn.float_type(kind)

    def tensor(*shape, dtype=np.float32, learns=False):
        return Tensor(cupy.asarray(rng.standard_normal(shape).astype(np.float32)).astype(dtype), requires_grad=learns)

    x = tensor(2, 3, 16, dtype=dtype, learns=x_learns)
    parts = []
    for width, adapter in zip((8, 24, 16), adapters, strict=True):
        A, B = (tensor(4, 16, learns=True), tensor(width, 4, learns=True)) if adapter else (None, None)
        bias = tensor(width, dtype=dtype) if width == 24 else None
        parts.append((tensor(width, 16, dtype=dtype), bias, A, B, 1.5))
    return x, parts


def one_by_one(x, parts):
    return [F.linear(x, W, b) if A is None else F.lora_linear(x, W, b, A, B, s) for W, b, A, B, s in parts]


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapters", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("x_learns", [True, False])
@pytest.mark.parametrize("used", [(0, 1, 2), (2, 0), (1,)])
def test_as_one_by_one(kind, adapters, x_learns, used):
    results = []
    for together in (linears, one_by_one):
        x, parts = leaves(np.random.default_rng(0), kind, adapters, x_learns)
        ys = together(x, parts)
        total = None
        for i in used:
            term = (ys[i].astype(np.float32) * (i + 1.0)).sum()
            total = term if total is None else total + term
        learned = [p for part in parts for p in part[2:4] if p is not None]
        if total.requires_grad:
            total.backward()
        results.append(([y.data for y in ys], [p.grad for p in (x, *learned)]))
    close = 1e-4 if kind == "float32" else 0.03
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        assert float(abs(ours - theirs).max()) <= close * float(abs(theirs).max())
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        if theirs is None:
            assert ours is None or not bool(ours.any())
        else:
            assert ours.dtype == theirs.dtype
            assert float(abs(ours.astype(np.float32) - theirs.astype(np.float32)).max()) <= close * max(
                1e-3, float(abs(theirs).max())
            )


def test_copies_for_a_step_are_those_of_one_by_one():
    import cupy

    from lora_np.autograd.cuda.narrow import narrowed, narrowed_for_a_step, stacked

    kind = nn.float_type("bfloat16")
    arrays = [cupy.random.standard_normal(shape, dtype=np.float32) for shape in ((2, 24), (16, 3), (3, 24), (5, 7))]
    plain = [narrowed(a, kind) for a in arrays]
    with narrowed_for_a_step(arrays, kind):
        for a, b in zip(arrays, plain, strict=True):
            assert bool((narrowed(a, kind) == b).all())
            assert narrowed(a, np.dtype(np.float32)) is a
        joint = stacked([arrays[0], arrays[2]], kind)
        assert joint.data.ptr == narrowed(arrays[0], kind).data.ptr  # in one piece, and not moved
        assert bool((joint == cupy.concatenate([plain[0], plain[2]])).all())
        assert bool((stacked([arrays[2], arrays[0]], kind) == cupy.concatenate([plain[2], plain[0]])).all())
    assert narrowed(arrays[0], kind) is not narrowed(arrays[0], kind)
