"""AdamW with its state in 8 bits: near AdamW's steps, in a quarter of the memory."""

import numpy as np
import pytest
from optimizer_helpers import as_in_a_file, losses_of
from training_helpers import tiny

from lora_np import AdamW, AdamW8bit
from lora_np.autograd.devices import to_numpy
from lora_np.nn import Parameter, float_type
from lora_np.training.optim.dynamic8bit import dequantize_blockwise, quantize_blockwise

SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}


def parameter(rng, shape=(40, 130), xp=np):
    return Parameter(xp.asarray(rng.standard_normal(shape).astype(np.float32)))


def by_hand(w, grads, lr, betas, eps, weight_decay):
    """AdamW's formulas in float64, with m and v rounded to 8 bits after each step."""
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        hats = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        w = w - lr * weight_decay * w - lr * hats[0] / (np.sqrt(hats[1]) + eps)
        m = dequantize_blockwise(*quantize_blockwise(m)).astype(np.float64)
        v = dequantize_blockwise(*quantize_blockwise(v, signed=False), signed=False).astype(np.float64)
    return w


def test_steps_are_adamws_with_the_state_rounded_in_between(rng, xp):
    p = parameter(rng, xp=xp)
    begin = to_numpy(p.data).astype(np.float64)
    grads = [rng.standard_normal(p.shape).astype(np.float32) for _ in range(3)]
    optimizer = AdamW8bit([p], **SETTINGS)
    for g in grads:
        p.grad = xp.asarray(g)
        optimizer.step()
    expected = by_hand(begin, [g.astype(np.float64) for g in grads], **SETTINGS)
    # where a number lies in the middle between two values, float32 may round it to the other one
    assert np.median(np.abs(to_numpy(p.data) - expected)) < 1e-6
    assert np.linalg.norm(to_numpy(p.data) - expected) < 2e-3 * np.linalg.norm(expected - begin)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(40, 130), (4, 5)])  # the state of small ones is not in 8 bits
def test_parameters_in_16_bits_are_computed_with_in_float32(rng, dtype, shape):
    """Small gradients' squares are below what float16 holds: 0 / 0 otherwise."""
    pytest.importorskip("ml_dtypes")
    narrow, wide = parameter(rng, shape), parameter(rng, shape)
    narrow.data = narrow.data.astype(float_type(dtype))
    wide.data = narrow.data.astype(np.float32)
    optimizers = [AdamW8bit([p], lr=0.01, weight_decay=0.2) for p in (narrow, wide)]
    for _ in range(3):
        narrow.grad = (1e-3 * rng.standard_normal(shape)).astype(narrow.dtype)
        wide.grad = narrow.grad.astype(np.float32)
        for optimizer in optimizers:
            optimizer.step()
        wide.data = wide.data.astype(narrow.dtype).astype(np.float32)
    np.testing.assert_array_equal(narrow.data.astype(np.float32), wide.data)


def test_the_state_takes_a_quarter_of_adamws_memory(rng):
    measured = {}
    for kind in (AdamW, AdamW8bit):
        p = parameter(rng, (512, 128))
        p.grad = p.data.copy()
        optimizer = kind([p])
        optimizer.step()
        measured[kind] = optimizer.state_nbytes()
    assert measured[AdamW] == 8 * p.size
    assert measured[AdamW8bit] == 2 * (p.size + 4 * p.size // 256)


def test_a_run_goes_as_with_adamw():
    """A small GPT-2 trained whole, with nearly all of the state in 8 bits."""
    curves, taken = {}, {}
    for kind, options in ((AdamW, {}), (AdamW8bit, {"min_8bit_size": 256})):
        model = tiny(width=32)
        optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=3e-3, **options)
        curves[kind] = np.array(losses_of(model, optimizer, 40))
        taken[kind] = optimizer.state_nbytes()
    assert curves[AdamW][-1] < 0.5 * curves[AdamW][0]
    assert (np.abs(curves[AdamW8bit] - curves[AdamW]) < 0.03 * curves[AdamW][0]).all()
    assert taken[AdamW8bit] < 0.3 * taken[AdamW]


def test_small_parameters_and_those_that_are_named_keep_32_bits(rng):
    small, named, large = parameter(rng, (63, 65)), parameter(rng), parameter(rng)
    optimizer = AdamW8bit([small, named, large])
    optimizer.keep_32bit([named])
    for p in (small, named, large):
        p.grad = p.data.copy()
    optimizer.step()
    dtypes = {id(p): optimizer.state[id(p)]["m"].dtype for p in (small, named, large)}
    assert list(dtypes.values()) == [np.float32, np.float32, np.uint8]
    with pytest.raises(ValueError, match="before the first step"):
        optimizer.keep_32bit([large])


def test_saved_state_continues_identically_and_what_does_not_fit_is_refused(rng):
    begin = [parameter(rng), parameter(rng, (10,))]
    grads = [[rng.standard_normal(p.shape).astype(np.float32) for p in begin] for _ in range(6)]
    runs = []
    for reloaded in (False, True):
        params = [Parameter(p.data.copy()) for p in begin]
        optimizer = AdamW8bit(params, **SETTINGS)
        for i, step in enumerate(grads):
            if i == 3 and reloaded:
                state, optimizer = as_in_a_file(optimizer.state_dict()), AdamW8bit(params, **SETTINGS)
                optimizer.load_state_dict(state)
            for p, g in zip(params, step, strict=True):
                p.grad = g
            optimizer.step()
        runs.append([p.data for p in params])
    for found, expected in zip(*runs, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"'0\.m' is uint8 .* should be float32"):
        AdamW([Parameter(p.data) for p in begin]).checked_state(optimizer.numbered_state())
    with pytest.raises(ValueError, match="incomplete: m_absmax, v, v_absmax is missing"):
        optimizer.checked_state({name: optimizer.numbered_state()[name] for name in ("0.step", "0.m")})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_8bit_size": -1}, ValueError, "min_8bit_size must be at least 0"),
        ({"min_8bit_size": 2.5}, TypeError, "min_8bit_size should be a whole number"),
        ({"is_paged": True}, ValueError, "is_paged=True is not possible here"),
        ({"percentile_clipping": 5}, ValueError, "percentile_clipping=5 is not possible here"),
        ({"block_wise": False}, ValueError, "block_wise=False is not possible here"),
        ({"optim_bits": 4}, ValueError, "optim_bits=4"),
        ({"amsgrad": True}, ValueError, "without amsgrad"),
        ({"bits": 8}, TypeError, "AdamW8bit has no argument 'bits'"),
    ],
    ids=str,
)
def test_what_is_not_possible_is_refused(rng, options, error, message):
    with pytest.raises(error, match=message):
        AdamW8bit([parameter(rng)], **options)
