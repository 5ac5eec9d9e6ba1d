"""Exercise 11: a step of AdamW, and steps of the adapters alone."""

import numpy as np

from lora_np.nn import Parameter
from lora_np.training import AdamW

from .checking import Edit, Exercise, checker

BETAS, EPS = (0.9, 0.999), 1e-8


def adamw_step(p, g, m, v, t, lr, weight_decay=0.01, betas=BETAS, eps=EPS):
    """Step number t (from 1) of AdamW for one array p with gradient g; returns the new p, m and v."""
    parameter = Parameter(p.copy())
    parameter.grad = g
    optimizer = AdamW([parameter], lr, betas, eps, weight_decay)
    state = optimizer.state[id(parameter)] = {"step": t - 1, "m": m.copy(), "v": v.copy()}
    optimizer.step()
    return parameter.data, state["m"], state["v"]


def step_adapters(params, grads, state, t, lr):
    """Step number t of every array in `params` that has a gradient in `grads`, by `adamw_step`; changes the dicts.

    params {name: array}, grads {name: array or None}, state {name: (m, v)}, empty at first: what has no gradient is
    not stepped and gets no state.
    """
    for name, g in grads.items():
        if g is not None:
            m, v = state.get(name, (np.zeros_like(g), np.zeros_like(g)))
            params[name], m, v = adamw_step(params[name], g, m, v, t, lr)
            state[name] = m, v


def cases():
    """A first step and a later one. The settings are far from usual, so that each of them is seen."""
    rng = np.random.default_rng(11)
    arrays = [{name: rng.standard_normal(shape) for name in "pgmv"} for shape in [(3, 2), (4,)]]
    first, later = ({**case, "v": case["v"] ** 2} for case in arrays)
    first.update(m=np.zeros((3, 2)), v=np.zeros((3, 2)), t=1)
    later.update(t=3)
    settings = {"lr": 0.1, "weight_decay": 0.2, "betas": (0.8, 0.9), "eps": 0.05}
    return [{**first, **settings}, {**later, **settings}]


def _example():
    """A frozen weight, an adapter's two matrices, and three gradients of each."""
    rng = np.random.default_rng(14)
    shapes = {"W": (4, 3), "A": (2, 3), "B": (4, 2)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    steps = [{"W": None, **{name: rng.standard_normal(shapes[name]) for name in "AB"}} for _ in range(3)]
    return params, steps


def _run(function, steps=3):
    """(params, state, did it return anything?) after the example's three steps, or the first of them."""
    params, gradients = _example()
    state, returned = {}, None
    for t, grads in enumerate(gradients[:steps], 1):
        returned = function(params, grads, state, t, 0.1)
    return params, state, returned


def changes_the_dicts(function):
    """None, or a sentence if the adapters stand where they did."""
    (before, _), (params, state, _) = _example(), _run(function)
    if np.array_equal(params["A"], before["A"]):
        return "the adapters have not changed: put the new array into the dict, params[name] = ..."
    return None if state else "`state` is empty: keep each (m, v) in it for the next step."


def leaves_the_frozen(function):
    """None, or a sentence if the frozen weight is stepped, or has state."""
    (before, _), (params, state, _) = _example(), _run(function)
    if not np.array_equal(params["W"], before["W"]):
        return "a weight without a gradient has changed: weight decay, too, is only for what learns."
    return "there is a state for a frozen weight: that memory is what LoRA saves." if "W" in state else None


def keeps_the_state(function):
    """None, or a sentence if the second and third steps are wrong."""
    (params, _, _), (expected, _, _) = _run(function), _run(step_adapters)
    if all(np.allclose(params[name], expected[name]) for name in expected):
        return None
    (first, _, _), (right, _, _) = _run(function, steps=1), _run(step_adapters, steps=1)
    if not all(np.allclose(first[name], right[name]) for name in right):
        return "the first step is wrong: give adamw_step t and lr, and leave its other settings as they are."
    return "the first step is right, later ones are not: are m and v taken from `state`, and is t handed on?"


def plain_step(p, g, m, v, t, lr, weight_decay, betas, eps):
    """`adamw_step`, for the edits."""
    beta1, beta2 = betas
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    decay = lr * weight_decay * p
    step = lr * m_hat / (np.sqrt(v_hat) + eps)
    return p - decay - step, m, v


EDITS = (
    Edit(
        "the bias correction is missing: m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).",
        {"m / (1 - beta1**t)": "m", "v / (1 - beta2**t)": "v"},
    ),
    Edit(
        "the correction has no power t: it is 1 - βᵗ, which goes to 1.",
        {"beta1**t": "beta1", "beta2**t": "beta2"},
    ),
    Edit("β · t stands where βᵗ should: beta**t.", {"beta1**t": "beta1 * t", "beta2**t": "beta2 * t"}),
    Edit(
        "t is one too large: at the first step it is 1 already.",
        {"beta1**t": "beta1 ** (t + 1)", "beta2**t": "beta2 ** (t + 1)"},
    ),
    Edit(
        "the weight decay is added to the gradient. That is Adam with L2; AdamW shrinks p beside the step.",
        {"    m = beta1 * m": "    g = g + weight_decay * p\n    m = beta1 * m", "lr * weight_decay * p": "0.0"},
    ),
    Edit(
        "the decay is taken of the new p; it is lr · λ times the p before the step.",
        {"p - decay - step": "(p - step) * (1 - lr * weight_decay)"},
    ),
    Edit(
        "p is right, but m and v are returned corrected: the hats serve one step only.",
        {"step, m, v": "step, m_hat, v_hat"},
    ),
    Edit(
        "p is right, but m and v are returned as they came.",
        {"    m = beta1 * m": "    old = m, v\n    m = beta1 * m", "step, m, v": "step, *old"},
    ),
    Edit("in m, the old m counts β₁, not β₂.", {"m = beta1 * m": "m = beta2 * m"}),
    Edit("in m, the new gradient counts 1 - β₁, not 1 - β₂.", {"(1 - beta1) * g": "(1 - beta2) * g"}),
    Edit("in v, the old v counts β₂, not β₁.", {"v = beta2 * v": "v = beta1 * v"}),
    Edit("in v, the new square counts 1 - β₂, not 1 - β₁.", {"(1 - beta2) * g": "(1 - beta1) * g"}),
    Edit("the correction of m takes β₁, not β₂.", {"beta1**t": "beta2**t"}),
    Edit("the correction of v takes β₂, not β₁.", {"beta2**t": "beta1**t"}),
    Edit("β₁ and β₂ have changed places.", {"beta1, beta2 =": "beta2, beta1 ="}),
    Edit("in m, β₁ and 1 - β₁ have changed places.", {"beta1 * m + (1 - beta1) * g": "(1 - beta1) * m + beta1 * g"}),
    Edit("in v, β₂ and 1 - β₂ have changed places.", {"beta2 * v + (1 - beta2) * g": "(1 - beta2) * v + beta2 * g"}),
    Edit("in m, the new gradient counts 1 - β₁.", {"(1 - beta1) * g": "g"}),
    Edit("in v, the new square counts 1 - β₂.", {"(1 - beta2) * g": "g"}),
    Edit("in m, the old m is missing.", {"beta1 * m + ": ""}),
    Edit("in v, the old v is missing.", {"beta2 * v + ": ""}),
    Edit("in m, the old m counts β₁.", {"beta1 * m +": "m +"}),
    Edit("in v, the old v counts β₂.", {"beta2 * v +": "v +"}),
    Edit("in m, the gradient has the wrong sign.", {"+ (1 - beta1)": "- (1 - beta1)"}),
    Edit("in v, the square has the wrong sign.", {"+ (1 - beta2)": "- (1 - beta2)"}),
    Edit("in m, the gradient is not squared.", {"(1 - beta1) * g": "(1 - beta1) * g**2"}),
    Edit("in v, the gradient is to be squared.", {"g**2": "g"}),
    Edit("in v, the gradient is to be squared.", {"g**2": "np.abs(g)"}),
    Edit("the bias correction of m is missing: m / (1 - β₁ᵗ).", {"m / (1 - beta1**t)": "m"}),
    Edit("the bias correction of v is missing: v / (1 - β₂ᵗ).", {"v / (1 - beta2**t)": "v"}),
    Edit("the bias correction is multiplied in m; divide.", {"m / (1 - beta1**t)": "m * (1 - beta1**t)"}),
    Edit("the bias correction is multiplied in v; divide.", {"v / (1 - beta2**t)": "v * (1 - beta2**t)"}),
    Edit("the correction of m has no power t.", {"beta1**t": "beta1"}),
    Edit("the correction of v has no power t.", {"beta2**t": "beta2"}),
    Edit("β · t stands where βᵗ should, in m's correction: beta**t.", {"beta1**t": "beta1 * t"}),
    Edit("β · t stands where βᵗ should, in v's correction: beta**t.", {"beta2**t": "beta2 * t"}),
    Edit("t is one too large in m's correction.", {"beta1**t": "beta1 ** (t + 1)"}),
    Edit("t is one too large in v's correction.", {"beta2**t": "beta2 ** (t + 1)"}),
    Edit("t is one too small in m's correction: the first step has t = 1.", {"beta1**t": "beta1 ** (t - 1)"}),
    Edit("t is one too small in v's correction: the first step has t = 1.", {"beta2**t": "beta2 ** (t - 1)"}),
    Edit("the correction is 1 - βᵗ, with a minus, in m.", {"(1 - beta1**t)": "(1 + beta1**t)"}),
    Edit("the correction is 1 - βᵗ, with a minus, in v.", {"(1 - beta2**t)": "(1 + beta2**t)"}),
    Edit("eps is under the root; it is added to it.", {"np.sqrt(v_hat) + eps": "np.sqrt(v_hat + eps)"}),
    Edit("eps is missing, or is not the argument eps.", {" + eps)": ")"}),
    Edit("eps is subtracted; add it.", {"+ eps)": "- eps)"}),
    Edit("the root of v̂ is missing.", {"np.sqrt(v_hat)": "v_hat"}),
    Edit("the step is multiplied by the root; divide.", {"m_hat / (": "m_hat * ("}),
    Edit("lr is missing from the step.", {"step = lr * m_hat": "step = m_hat"}),
    Edit("the step is along g; it should be along m̂, the mean of the gradients.", {"lr * m_hat": "lr * g"}),
    Edit("the weight decay is missing.", {"p - decay - step": "p - step"}),
    Edit("the weight decay makes p larger: subtract it.", {"p - decay": "p + decay"}),
    Edit("the weight decay is to be multiplied by lr.", {"lr * weight_decay * p": "weight_decay * p"}),
    Edit("the weight decay shrinks p: it is lr · λ · p.", {"lr * weight_decay * p": "lr * weight_decay"}),
    Edit("the weight decay is of p, not of the gradient.", {"weight_decay * p": "weight_decay * g"}),
    Edit("the step goes up the gradient: subtract it.", {"- step": "+ step"}),
    Edit("m is returned corrected: the hat serves one step only.", {"step, m, v": "step, m_hat, v"}),
    Edit("v is returned corrected: the hat serves one step only.", {"step, m, v": "step, m, v_hat"}),
    Edit("m and v have changed places in the results.", {"step, m, v": "step, v, m"}),
    Edit("the step alone is returned; p is to be returned, less the step.", {"p - decay - step": "step"}),
)


ADAMW_STEP_HINTS = (
    "for a constant g: m = (1 - β₁)(1 + β₁ + β₁² + ... ) g, with t terms. Sum the series.",
    "m̂ = m / (1 - β₁ᵗ), and v̂ = v / (1 - β₂ᵗ).",
)

check = checker(
    Exercise(
        adamw_step,
        cases,
        results=("p", "m", "v"),
        plain=plain_step,
        edits=EDITS,
        hints=ADAMW_STEP_HINTS,
    ),
    Exercise(step_adapters, rules=(changes_the_dicts, leaves_the_frozen, keeps_the_state)),
)
