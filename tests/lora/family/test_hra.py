"""HRA: what goes into a layer is reflected in trained directions."""

import numpy as np
import pytest
from family_tests import FamilyTests
from lora_helpers import logits_of, perturbed, refusal, relative, tiny_llama

from lora_np import get_peft_model
from lora_np.lora import HRAConfig


class TestHRA(FamilyTests):
    name = "HRAConfig"
    options = {"r": 4}
    variants = [{"apply_GS": True}, {"r": 3, "init_weights": False}, {"r": 1, "apply_GS": True, "init_weights": False}]
    in_peft = ["llama"]  # of GPT-2's Conv1D it has none
    starts = 1e-5


def config(**options):
    return HRAConfig(**{"target_modules": ["q_proj", "down_proj"], "r": 4, **options})


def hra(**options):
    return perturbed(get_peft_model(tiny_llama().to(dtype=np.float64), config(**options)), scale=0.3)


def first_of(model):
    return next(layer.adapters["default"] for _, layer in model.base_model.layers())


@pytest.mark.parametrize("gram_schmidt", [False, True])
@pytest.mark.parametrize("r", [1, 2, 5])
def test_the_product_of_reflections_one_by_one(r, gram_schmidt):
    adapter = first_of(hra(r=r, apply_GS=gram_schmidt, init_weights=False))
    U = adapter.hra_u.data
    U = np.linalg.qr(U)[0] if gram_schmidt else U / np.linalg.norm(U, axis=0)
    M = np.eye(16)
    for u in U.T:
        M = M @ (np.eye(16) - 2 * np.outer(u, u))
    R = adapter.matrix()
    np.testing.assert_allclose(R.T, M, atol=1e-12)
    np.testing.assert_allclose(R @ R.T, np.eye(16), atol=1e-12)
    assert np.linalg.matrix_rank(adapter.delta_weight()) == r


def test_what_is_trained():
    model = get_peft_model(tiny_llama(), config())
    assert model.get_nb_trainable_parameters()[0] == 2 * 4 * (16 + 24)
    assert first_of(model).hra_u.shape == (16, 4)


def test_directions_begin_in_pairs_unless_they_cannot():
    u = first_of(get_peft_model(tiny_llama(), config())).hra_u.data
    np.testing.assert_array_equal(u[:, 0::2], u[:, 1::2])
    assert (u[:, 0] != u[:, 2]).all()
    for options in ({"init_weights": False}, {"apply_GS": True}):
        model = get_peft_model(tiny_llama(), config(**options))
        u = first_of(model).hra_u.data
        assert (u[:, 0] != u[:, 1]).all()
        assert relative(logits_of(model), logits_of(tiny_llama())) > 1e-2
    with pytest.warns(UserWarning, match="r=3 is odd"):
        get_peft_model(tiny_llama(), config(r=3))


def test_the_length_of_a_direction_does_not_count():
    model = hra()
    expected = logits_of(model)
    for name, p in model.named_parameters():
        if "hra_u" in name:
            p.data = p.data * np.array([1, 2, 3, 0.25])
    assert relative(logits_of(model), expected) < 1e-12


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: config(r=0), "r must be an integer of at least 1"),
        (lambda: config(r="4"), "r must be an integer"),
        (lambda: config(apply_GS=1), "apply_GS must be True or False"),
        (lambda: config(bias="lora_only"), "'hra_only'"),
        (lambda: hra(apply_GS=True, r=17), "r = 17 directions of"),
        (lambda: hra().set_scale("default", 2), "no scaling"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)
