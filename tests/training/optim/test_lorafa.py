"""LoRA-FA: A is frozen, and B's gradient is the one whose change of the weight is nearest to the loss's."""

import weakref

import numpy as np
import pytest
from lora_helpers import relative, some_ids, tiny_llama
from optimizer_helpers import TARGETS, adapted, as_in_a_file, losses_of, steps_together, twin_of

from lora_np import AdamW, Tensor, VeraConfig, create_lorafa_optimizer, get_peft_model
from lora_np.training.optim.lorafa import nearest_gradient


def test_bs_gradient_is_the_nearest_to_that_of_the_whole_weight(rng):
    """By least squares, with NumPy's solver."""
    adapter = adapted().base_model.layers()[0][1].adapters["default"]
    A = adapter.matrices()[0].data
    G = rng.standard_normal((48, 16))
    found = nearest_gradient(adapter.scaling * G @ A.T, adapter)
    best = np.linalg.lstsq((adapter.scaling * A).T, G.T, rcond=None)[0].T
    assert relative(found, best) < 1e-6


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "settings"),
    [
        (np.float64, 1e-9, {}),
        (np.float64, 1e-9, {"use_rslora": True}),
        (np.float64, 1e-9, {"rank_pattern": {"c_attn": 5}, "alpha_pattern": {"c_attn": 2}}),
        (np.float32, 1e-3, {}),
    ],
    ids=str,
)
def test_twenty_steps_as_in_peft(dtype, tolerance, settings, monkeypatch):
    import peft.optimizers.lorafa as theirs_in

    monkeypatch.setattr(theirs_in, "is_bf16_available", lambda: False)  # it would round to 8 bits
    model = adapted(dtype, **settings)
    twin = twin_of(model)
    arguments = {"r": 3, "lora_alpha": 6, "lr": 1e-3, "weight_decay": 0.1}
    ours, theirs = create_lorafa_optimizer(model, **arguments), theirs_in.create_lorafa_optimizer(twin, **arguments)
    assert steps_together(ours, theirs, model, twin, 20) < tolerance


def test_what_is_not_a_or_b_of_a_linear_layer_gets_adamws_step():
    """DoRA's magnitudes, and A and B beside an embedding: with almost no eps the two forms of AdamW are one."""
    settings = {"target_modules": ["wte", "c_attn"], "use_dora": True}
    model, other = adapted(**settings), adapted(**settings)
    optimizer = create_lorafa_optimizer(model, 3, 6, 1e-3)
    optimizer.param_groups[0]["eps"] = 1e-30
    ids = some_ids(model.config)
    for one in (model, other):
        one(ids, labels=ids).loss.backward()
    optimizer.step()
    AdamW([p for p in other.parameters() if p.requires_grad], lr=1e-3, eps=1e-30, weight_decay=0.0).step()
    same = {}
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if q.requires_grad:
            same[name] = np.allclose(p.data, q.data, rtol=1e-9, atol=0)
    assert {name for name, is_same in same.items() if not is_same} == {
        name for name in same if ".lora_A." in name or ".lora_B." in name
    }


@pytest.mark.parametrize("frozen", [True, False])
def test_the_inputs_of_a_layer_are_kept_only_for_a(frozen):
    """The saving of memory that the paper is about."""
    model = adapted()
    if frozen:
        create_lorafa_optimizer(model, 3, 6, 1e-3)
    layer = model.base_model.layers()[0][1]
    x = Tensor(np.ones((5, 16))) * 2.0
    kept = weakref.ref(x.data)
    y = layer(x)
    del x
    assert (kept() is None) == frozen
    y.sum().backward()
    assert layer.adapters["default"].matrices()[1].grad is not None


def test_parts_of_a_projection_have_their_own_inverses():
    """c_attn.q and c_attn.v alone: the gradients are those of two adapters of their own."""
    model = adapted(target_modules=["c_attn.q", "c_attn.v"])
    adapter = model.base_model.layers()[0][1].adapters["default"]
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    A, B = adapter.matrices()
    found = nearest_gradient(B.grad, adapter)
    for i in range(2):
        own, grad = A.data[3 * i : 3 * i + 3], B.grad[16 * i : 16 * i + 16]
        np.testing.assert_allclose(found[16 * i : 16 * i + 16] * 4, grad @ np.linalg.inv(own @ own.T), rtol=1e-5)


def test_the_loss_falls_and_a_stays():
    model = adapted(np.float32, make=tiny_llama, target_modules=["q_proj", "down_proj"])
    before = {name: p.data.copy() for name, p in model.named_parameters() if ".lora_A." in name}
    optimizer = create_lorafa_optimizer(model, r=3, lora_alpha=6, lr=3e-2)
    losses = losses_of(model, optimizer)
    assert losses[-1] < 0.9 * losses[0]
    for name, p in model.named_parameters():
        if name in before:
            np.testing.assert_array_equal(p.data, before[name])
            assert not p.requires_grad


def test_saved_state_continues_identically():
    model, other = adapted(), adapted()
    first, second = (create_lorafa_optimizer(m, 3, 6, 1e-2) for m in (model, other))
    expected = losses_of(model, first, 6)
    losses_of(other, second, 3)
    third = create_lorafa_optimizer(other, 3, 6, 1e-2)
    third.load_state_dict(as_in_a_file(second.state_dict()))
    assert losses_of(other, third, 3) == expected[3:]


def test_what_makes_no_sense_is_refused():
    model = adapted()
    create_lorafa_optimizer(model, 3, 6, 1e-3, use_rslora=False)
    with pytest.raises(ValueError, match="use_rslora=True, but the config of default says otherwise"):
        create_lorafa_optimizer(model, 3, 6, 1e-3, use_rslora=True)
    with pytest.raises(ValueError, match="r must be at least 1, got 0"):
        create_lorafa_optimizer(model, 0, 6, 1e-3)
    with pytest.raises(TypeError, match="lora_alpha should be a number"):
        create_lorafa_optimizer(model, 3, "6", 1e-3)
    vera = get_peft_model(model.unload(), VeraConfig(r=2, target_modules=TARGETS, fan_in_fan_out=True))
    with pytest.raises(ValueError, match="this model has none"):
        create_lorafa_optimizer(vera, 3, 6, 1e-3)
