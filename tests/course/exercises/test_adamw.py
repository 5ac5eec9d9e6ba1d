import numpy as np
import pytest
from exercise_helpers import assert_told

from lora_course.exercises.adamw import adamw_step, check, step_adapters


def student(m=None, v=None, hats=None, step=None, decay=None, sign=-1):
    """AdamW as a student may write it, with some lines of their own."""

    def wrong(p, g, m_old, v_old, t, lr, weight_decay, betas, eps):
        b1, b2 = betas
        new_m = m(m_old, g, b1) if m else b1 * m_old + (1 - b1) * g
        new_v = v(v_old, g, b2) if v else b2 * v_old + (1 - b2) * g * g
        a, b = hats(new_m, new_v, b1, b2, t) if hats else (new_m / (1 - b1**t), new_v / (1 - b2**t))
        ratio = step(a, b, eps) if step else a / (np.sqrt(b) + eps)
        shrunk = p * (1 - (decay(lr, weight_decay) if decay else lr * weight_decay))
        return shrunk + sign * lr * ratio, new_m, new_v

    return wrong


def l2(p, g, m, v, t, lr, weight_decay, betas, eps):
    return student()(p, g + weight_decay * p, m, v, t, lr, 0.0, betas, eps)


def betas_swapped(p, g, m, v, t, lr, weight_decay, betas, eps):
    return student()(p, g, m, v, t, lr, weight_decay, betas[::-1], eps)


def hats_returned(p, g, m, v, t, lr, weight_decay, betas, eps):
    p, m, v = student()(p, g, m, v, t, lr, weight_decay, betas, eps)
    return p, m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)


def state_lost(p, g, m, v, t, lr, weight_decay, betas, eps):
    return student()(p, g, m, v, t, lr, weight_decay, betas, eps)[0], m, v


def in_place(p, g, m, v, t, lr, weight_decay, betas, eps):
    m *= betas[0]
    m += (1 - betas[0]) * g
    return p, m, v


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (student(hats=lambda m, v, b1, b2, t: (m, v)), "bias correction is missing"),
        (student(hats=lambda m, v, b1, b2, t: (m / (1 - b1**t), v)), "correction of v is missing"),
        (student(hats=lambda m, v, b1, b2, t: (m, v / (1 - b2**t))), "correction of m is missing"),
        (student(hats=lambda m, v, b1, b2, t: (m / (1 - b1), v / (1 - b2))), "has no power t"),
        (student(step=lambda m, v, eps: m / np.sqrt(v + eps)), "eps is under the root"),
        (student(step=lambda m, v, eps: m / np.sqrt(v)), "eps is missing"),
        (student(step=lambda m, v, eps: m / (v + eps)), "root of v̂ is missing"),
        (student(decay=lambda lr, weight_decay: 0), "weight decay is missing"),
        (student(decay=lambda lr, weight_decay: weight_decay), "multiplied by lr"),
        (l2, "Adam with L2"),
        (betas_swapped, "β₁ and β₂ have changed places"),
        (student(v=lambda v, g, b2: b2 * v + (1 - b2) * np.abs(g)), "gradient is to be squared"),
        (student(m=lambda m, g, b1: b1 * m + g), "the new gradient counts 1 - β₁"),
        (student(m=lambda m, g, b1: b1 * g + (1 - b1) * m), "β₁ and 1 - β₁ have changed places"),
        (student(sign=1), "goes up the gradient"),
        (hats_returned, "returned corrected"),
        (state_lost, "returned as they came"),
        (in_place, "changed its argument `m`"),
    ],
)
def test_usual_mistakes_in_a_step_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "adamw_step", capsys)


def test_a_step_as_written_here_is_right():
    def adamw_step(p, g, m, v, t, lr, weight_decay, betas, eps):
        return student()(p, g, m, v, t, lr, weight_decay, betas, eps)

    assert check(adamw_step) is adamw_step


def zeros(g):
    return np.zeros_like(g), np.zeros_like(g)


def into_a_copy(params, grads, state, t, lr):
    for name, g in grads.items():
        if g is not None:
            p = params[name]
            p, m, v = adamw_step(p, g, *state.get(name, zeros(g)), t, lr)
            state[name] = m, v


def frozen_too(params, grads, state, t, lr):
    for name, p in params.items():
        g = np.zeros_like(p) if grads[name] is None else grads[name]
        params[name], m, v = adamw_step(p, g, *state.get(name, zeros(g)), t, lr)
        state[name] = m, v


def state_for_all(params, grads, state, t, lr):
    for name, p in params.items():
        state.setdefault(name, zeros(p))
        if grads[name] is not None:
            params[name], m, v = adamw_step(p, grads[name], *state[name], t, lr)
            state[name] = m, v


def state_forgotten(params, grads, state, t, lr):
    for name, g in grads.items():
        if g is not None:
            params[name], _, _ = adamw_step(params[name], g, *zeros(g), t, lr)


def state_begun_again(params, grads, state, t, lr):
    for name, g in grads.items():
        if g is not None:
            params[name], m, v = adamw_step(params[name], g, *zeros(g), t, lr)
            state[name] = m, v


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (into_a_copy, "put the new array into the dict"),
        (frozen_too, "a weight without a gradient has changed"),
        (state_for_all, "a state for a frozen weight"),
        (state_forgotten, "`state` is empty"),
        (state_begun_again, "taken from `state`"),
    ],
)
def test_usual_mistakes_in_the_loop_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "step_adapters", capsys)


def test_the_loop_keeps_frozen_weights_as_they_are():
    params, state = {"W": np.ones(3), "A": np.ones(3)}, {}
    frozen = params["W"]
    step_adapters(params, {"W": None, "A": np.ones(3)}, state, 1, 0.1)
    assert params["W"] is frozen
    assert list(state) == ["A"]
    np.testing.assert_allclose(params["A"], 1 - 0.1 * 0.01 - 0.1, rtol=1e-6)


def decay_of_the_new(p, g, m, v, t, lr, weight_decay, betas, eps):
    p, m, v = student()(p, g, m, v, t, lr, 0.0, betas, eps)
    return p * (1 - lr * weight_decay), m, v


def along_the_gradient(p, g, m, v, t, lr, weight_decay, betas, eps):
    return student(hats=lambda m, v, b1, b2, t: (g, v / (1 - b2**t)))(p, g, m, v, t, lr, weight_decay, betas, eps)


def quiet(function):
    def wrong(*arguments):
        with np.errstate(invalid="ignore"):
            return function(*arguments)

    return wrong


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (decay_of_the_new, "the p before the step"),
        (along_the_gradient, "along m̂"),
        (student(decay=lambda lr, weight_decay: -lr * weight_decay), "makes p larger"),
        (student(hats=lambda m, v, b1, b2, t: (m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1)))), "one too large"),
        (quiet(student(hats=lambda m, v, b1, b2, t: (m / (1 - b1 * t), v / (1 - b2 * t)))), "where βᵗ should"),
        (quiet(student(v=lambda v, g, b2: b2 * v + (1 - b2) * g)), "gradient is to be squared"),
    ],
)
def test_further_mistakes_in_a_step_are_named(mistake, hint, capsys):
    assert_told(check, mistake, hint, "adamw_step", capsys)


def no_decay(params, grads, state, t, lr):
    for name, g in grads.items():
        if g is not None:
            params[name], *state[name] = adamw_step(params[name], g, *state.get(name, zeros(g)), t, lr, 0.0)


def always_the_first(params, grads, state, t, lr):
    step_adapters(params, grads, state, 1, lr)


@pytest.mark.parametrize(
    ("mistake", "hint"), [(no_decay, "the first step is wrong"), (always_the_first, "is t handed on")]
)
def test_a_wrong_first_step_and_a_wrong_later_one_are_told_apart(mistake, hint, capsys):
    assert_told(check, mistake, hint, "step_adapters", capsys)
