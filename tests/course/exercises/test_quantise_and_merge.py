import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises import quantise_and_merge as exercise
from lora_course.exercises.quantise_and_merge import UNIFORM, check
from lora_np.nn.nf4 import NF4, dequantize_nf4, quantize_nf4


def nf4(W):
    return exercise.plain_quantise(W, NF4, 64)


@pytest.fixture
def W(rng):
    return rng.standard_normal((32, 128)).astype(np.float32)


def test_the_plain_solution_rounds_as_the_library_does(W):
    np.testing.assert_allclose(nf4(W), dequantize_nf4(quantize_nf4(W, 64, double_quant=False)), atol=1e-6)


def test_even_steps_are_at_most_half_a_step_off(W):
    off = np.abs(exercise.quantise(W, UNIFORM, 64) - W).reshape(-1, 64)
    assert (off <= np.abs(W.reshape(-1, 64)).max(axis=1, keepdims=True) / 14 + 1e-6).all()


def test_beside_a_rounded_weight_nothing_is_lost(W, rng):
    """What the notebook says of where merging is exact."""
    delta = 0.01 * rng.standard_normal(W.shape).astype(np.float32)
    beside, once, twice = exercise.merge_errors(nf4(W), delta, nf4)
    assert beside == 0
    assert once == twice > 0.5


def test_a_small_update_is_lost_in_a_rounded_weight_and_not_in_the_original(W, rng):
    delta = 1e-3 * rng.standard_normal(W.shape)
    assert exercise.survives(W, delta, nf4) < 0.02
    assert exercise.survives(W, 1e3 * delta, nf4) == pytest.approx(1, abs=0.05)
    change = nf4(W + delta) - nf4(W)
    assert (change * delta).sum() / (delta * delta).sum() > 0.5


def test_a_solution_in_a_loop_is_right_too(capsys):
    def quantise(W, levels, block_size):
        flat = W.ravel().copy()
        for begin in range(0, len(flat), block_size):
            block = flat[begin : begin + block_size]
            absmax = max(abs(block))
            for i, w in enumerate(block):
                block[i] = absmax * min(levels, key=lambda level, w=w, absmax=absmax: abs(w / absmax - level))
        return flat.reshape(W.shape)

    assert check(quantise) is quantise


def test_rounding_on_even_steps_alone_is_told(capsys):
    def even_steps(W, levels, block_size):
        blocks = W.reshape(-1, block_size)
        absmax = np.abs(blocks).max(axis=1, keepdims=True)
        return (np.round(blocks / absmax * 7) / 7 * absmax).reshape(W.shape)

    assert_told(check, even_steps, "the rounded weight", "quantise", capsys)
