"""Preconditioned gradients: against PEFT, and the invariance that they are made for."""

import numpy as np
import pytest
from lora_helpers import relative, some_ids
from optimizer_helpers import TARGETS, adapted, as_in_a_file, losses_of, steps_together, twin_of

from lora_np import SGD, AdamW, VeraConfig, create_riemannian_optimizer, get_peft_model


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "settings"),
    [
        (np.float64, 1e-9, {}),
        (np.float64, 1e-9, {"use_dora": True, "rank_pattern": {"c_attn": 5}}),
        (np.float64, 1e-9, {"target_modules": ["wte", "c_attn"]}),
        (np.float32, 1e-3, {}),
    ],
    ids=str,
)
def test_twenty_steps_as_in_peft(dtype, tolerance, settings):
    import torch
    from peft.optimizers import create_riemannian_optimizer as peft_create

    for ours_is, theirs_is, options in ((AdamW, torch.optim.AdamW, {}), (SGD, torch.optim.SGD, {"momentum": 0.9})):
        model = adapted(dtype, **settings)
        twin = twin_of(model)
        options = {"lr": 1e-3, "reg": 1e-2, "weight_decay": 0.1, **options}
        ours = create_riemannian_optimizer(model, ours_is, **options)
        theirs = peft_create(twin, theirs_is, **options)
        assert isinstance(ours, ours_is)
        assert steps_together(ours, theirs, model, twin, 20) < tolerance


def step_of_products(change=None, **settings):
    """ΔW's of all layers after one small step of SGD, minus those before, where first A ← M A and B ← B M⁻¹."""
    model = adapted(**settings)
    layers = [layer.adapters["default"] for _, layer in model.base_model.layers()]
    for adapter in layers if change is not None else ():
        A, B = adapter.matrices()
        A.data, B.data = change @ A.data, B.data @ np.linalg.inv(change)
    before = [adapter.delta_weight() for adapter in layers]
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    create_riemannian_optimizer(model, SGD, lr=1e-6, reg=0.0).step()
    return [(adapter.delta_weight() - old) * 1e6 for adapter, old in zip(layers, before, strict=True)]


def test_the_step_of_b_a_does_not_depend_on_how_it_is_split(rng):
    change = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    for found, expected in zip(step_of_products(change), step_of_products(), strict=True):
        assert relative(found, expected) < 1e-4


def test_parts_of_a_projection_are_turned_apart():
    model = adapted(target_modules=["c_attn.q", "c_attn.v"])
    A, B = model.base_model.layers()[0][1].adapters["default"].matrices()
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    before, grads = [A.data.copy(), B.data.copy()], [A.grad.copy(), B.grad.copy()]
    create_riemannian_optimizer(model, SGD, lr=1.0, reg=0.1).step()
    for i in range(2):
        rows, outputs, damping = slice(3 * i, 3 * i + 3), slice(16 * i, 16 * i + 16), 0.1 * np.eye(3)
        a, b = before[0][rows], before[1][outputs]
        np.testing.assert_allclose(a - A.data[rows], np.linalg.solve(b.T @ b + damping, grads[0][rows]), rtol=1e-9)
        expected = grads[1][outputs] @ np.linalg.inv(a @ a.T + damping)
        np.testing.assert_allclose(b - B.data[outputs], expected, rtol=1e-9, atol=1e-12)


def test_the_loss_falls_and_saved_state_continues_identically():
    model, other = adapted(), adapted()
    first, second = (create_riemannian_optimizer(m, AdamW, lr=1e-2) for m in (model, other))
    expected = losses_of(model, first, 12)
    assert expected[-1] < 0.9 * expected[0]
    losses_of(other, second, 6)
    third = create_riemannian_optimizer(other, AdamW, lr=1e-2)
    third.load_state_dict(as_in_a_file(second.state_dict()))
    assert losses_of(other, third, 6) == expected[6:]


def test_what_makes_no_sense_is_refused():
    model = adapted()
    with pytest.raises(TypeError, match="optimizer_cls should be a class of optimizers"):
        create_riemannian_optimizer(model, AdamW(model.parameters()), lr=1e-3)
    with pytest.raises(ValueError, match="reg must not be negative, got -1"):
        create_riemannian_optimizer(model, AdamW, lr=1e-3, reg=-1)
    with pytest.raises(ValueError, match="no pair of A and B"):
        create_riemannian_optimizer(model.requires_grad_(False), AdamW, lr=1e-3)
    vera = get_peft_model(model.unload(), VeraConfig(r=2, target_modules=TARGETS, fan_in_fan_out=True))
    with pytest.raises(ValueError, match="no pair of A and B"):
        create_riemannian_optimizer(vera, AdamW, lr=1e-3)
