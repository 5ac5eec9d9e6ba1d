"""Which parameters decay, and which learn faster."""

import numpy as np
import pytest
from lora_helpers import randomize, tiny_model

from lora_np import AdamW, LoraConfig, get_peft_model
from lora_np.training import parameter_groups


def names_by_settings(model, groups):
    names = {id(p): name for name, p in model.named_parameters()}
    return {(g["lr"], g["weight_decay"]): {names[id(p)] for p in g["params"]} for g in groups}


def adapted(**settings):
    model = get_peft_model(tiny_model(), LoraConfig(r=2, fan_in_fan_out=True, **settings))
    return randomize(model) or model


def test_only_matrices_decay():
    model = tiny_model()
    groups = names_by_settings(model, parameter_groups(model, 0.1, weight_decay=0.5))
    vectors = {name for name, p in model.named_parameters() if p.ndim == 1}
    assert groups == {(0.1, 0.0): vectors, (0.1, 0.5): {name for name, _ in model.named_parameters()} - vectors}


def test_b_learns_faster_and_doras_magnitudes_do_not_decay():
    model = adapted(use_dora=True)
    groups = names_by_settings(model, parameter_groups(model, 0.1, weight_decay=0.5, loraplus_lr_ratio=16))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert groups == {
        (0.1, 0.5): {name for name in trained if ".lora_A." in name},
        (1.6, 0.5): {name for name in trained if ".lora_B." in name},
        (0.1, 0.0): {name for name in trained if ".lora_magnitude_vector." in name},
    }


def test_the_first_step_of_b_is_as_many_times_larger():
    model = adapted()
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    ids = np.arange(8).reshape(1, 8)
    model(ids, labels=ids).loss.backward()
    AdamW(parameter_groups(model, 1e-3, loraplus_lr_ratio=8.0), eps=0.0).step()
    for name, p in model.named_parameters():
        if p.requires_grad:  # Adam's first step has the size of the learning rate, whatever the gradient
            moved = np.abs(p.data - before[name])[p.grad != 0]
            np.testing.assert_allclose(moved, 8e-3 if ".lora_B." in name else 1e-3, rtol=1e-2)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        parameter_groups(tiny_model().requires_grad_(False), 0.1)


@pytest.mark.parity
def test_the_groups_are_those_of_peft():
    import torch
    from lora_helpers import hugging_face_twin
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model as peft_get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    model = adapted()
    theirs = peft_get_peft_model(hugging_face_twin(tiny_model()), PeftLoraConfig(r=2, fan_in_fan_out=True))
    options = {"lr": 0.1, "loraplus_lr_ratio": 16, "loraplus_weight_decay": 0.5}
    optimizer = create_loraplus_optimizer(theirs, torch.optim.AdamW, **options)
    names = {id(p): name for name, p in theirs.named_parameters()}
    expected = {}
    for group in optimizer.param_groups:
        if group["params"]:
            expected[group["lr"], group["weight_decay"]] = {names[id(p)] for p in group["params"]}
    assert names_by_settings(model, parameter_groups(model, 0.1, 0.5, 16)) == expected
