"""AdamW and clipping for all parameters at once, against the same in NumPy."""

import numpy as np
import pytest
from helpers import assert_close

from lora_np.nn import Parameter
from lora_np.training import AdamW, clip_grad_norm_

pytestmark = pytest.mark.gpu
SHAPES = [(3,), (8, 768), (1, 1), (300, 400), (7,)]


def parameters(xp):
    rng = np.random.default_rng(0)
    found = [Parameter(xp.asarray(rng.standard_normal(shape).astype(np.float32))) for shape in SHAPES]
    return found, [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES * 4]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.0}, {"betas": (0.5, 0.9), "eps": 1e-3, "lr": 0.1}], ids=str)
def test_adamw_like_numpy(options):
    import cupy

    results = []
    for xp in (np, cupy):
        params, grads = parameters(xp)
        optimizer = AdamW([{"params": params[:2]}, {"params": params[2:], "lr": 0.05}], **options)
        for step in range(4):
            for i, p in enumerate(params):
                skipped = step == 1 and i == 3  # its age then differs from the others'
                p.grad = None if skipped else xp.asarray(grads[len(SHAPES) * step + i])
            optimizer.step()
        results.append(([p.data for p in params], optimizer.numbered_state()))
    for a, b in zip(*(data for data, _ in results), strict=True):
        assert_close(b, a, rtol=1e-4, atol=1e-6)
    for name, value in results[0][1].items():
        assert_close(
            np.asarray(value), np.asarray(results[1][1][name].get() if name[-1] in "mv" else value), 1e-4, 1e-6
        )


@pytest.mark.parametrize("max_norm", [0.1, 1e9])
def test_clipping_like_numpy(max_norm):
    import cupy

    norms, clipped = [], []
    for xp in (np, cupy):
        params, grads = parameters(xp)
        for p, g in zip(params, grads, strict=False):
            p.grad = xp.asarray(g.copy())
        norms.append(float(clip_grad_norm_(params, max_norm)))
        clipped.append([p.grad for p in params])
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
    for a, b in zip(*clipped, strict=True):
        assert_close(b, a, rtol=1e-4, atol=1e-7)
