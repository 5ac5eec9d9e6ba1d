"""LoRA+ under PEFT's name: its four groups, and its steps."""

import numpy as np
import pytest
from lora_helpers import tiny_llama, tiny_model
from optimizer_helpers import adapted, losses_of, steps_together, twin_of

import lora_np.optimizers
from lora_np import SGD, AdamW, AdamW8bit, LoraConfig, create_loraplus_optimizer, get_peft_model

SETTINGS = {"lr": 1e-3, "loraplus_lr_ratio": 8.0, "loraplus_lr_embedding": 1e-4, "loraplus_weight_decay": 0.1}
KINDS = {
    "plain": {},
    "dora": {"use_dora": True},
    "bias": {"lora_bias": True},
    "embedding": {"target_modules": ["wte", "c_attn"]},
    "dora embedding": {"target_modules": ["wte", "c_attn"], "use_dora": True},
    "whole": {"modules_to_save": ["ln_f", "mlp.c_fc"], "bias": "all"},
}


def groups_by_name(optimizer, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return [(g["lr"], g["weight_decay"], {names[id(p)] for p in g["params"]}) for g in optimizer.param_groups]


def test_it_is_found_where_pefts_users_look():
    assert lora_np.optimizers.create_loraplus_optimizer is create_loraplus_optimizer
    assert lora_np.training.optim.create_loraplus_optimizer is create_loraplus_optimizer


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_groups_and_twenty_steps_are_pefts(kind):
    import torch
    from peft.optimizers import create_loraplus_optimizer as peft_create

    model = adapted(**KINDS[kind])
    twin = twin_of(model)
    ours, theirs = create_loraplus_optimizer(model, AdamW, **SETTINGS), peft_create(twin, torch.optim.AdamW, **SETTINGS)
    assert groups_by_name(ours, model) == groups_by_name(theirs, twin)
    assert len(ours.param_groups) == 4
    assert steps_together(ours, theirs, model, twin, 20) < 1e-9


@pytest.mark.parity
def test_with_another_optimizer_and_in_float32():
    import torch
    from peft.optimizers import create_loraplus_optimizer as peft_create

    model = adapted(np.float32)
    twin = twin_of(model)
    options = {"lr": 1e-3, "loraplus_lr_ratio": 4, "momentum": 0.9}
    ours, theirs = create_loraplus_optimizer(model, SGD, **options), peft_create(twin, torch.optim.SGD, **options)
    assert [g["lr"] for g in ours.param_groups] == [1e-3, 1e-6, 4e-3, 4e-3]
    assert steps_together(ours, theirs, model, twin) < 1e-5


def test_norms_without_a_mean_do_not_decay_either():
    model = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]))
    *_, decaying, still = groups_by_name(create_loraplus_optimizer(model, AdamW, **SETTINGS), model)
    assert still[2]
    assert all("norm.modules_to_save" in name for name in still[2])
    assert all(".lora_B." in name for name in decaying[2])


def test_in_8_bits_embeddings_that_are_trained_whole_keep_32():
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["c_attn"], modules_to_save=["wte"], r=4))
    optimizer = create_loraplus_optimizer(model, AdamW8bit, lr=1e-2, loraplus_lr_ratio=2, min_8bit_size=1)
    losses = losses_of(model, optimizer, 8)
    assert losses[-1] < losses[0]
    state = {name: optimizer.state[id(p)]["m"].dtype for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, dtype in state.items() if dtype == np.float32} == {
        "base_model.model.transformer.wte.modules_to_save.default.weight"
    }


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"optimizer_cls": "adamw"}, TypeError, "optimizer_cls should be a class of optimizers"),
        ({"optimizer_cls": np.ndarray}, TypeError, "optimizer_cls should be a class of optimizers"),
        ({"loraplus_lr_ratio": 0}, ValueError, "loraplus_lr_ratio must be positive, got 0"),
        ({"loraplus_lr_ratio": "16"}, TypeError, "loraplus_lr_ratio should be a number"),
        ({"loraplus_lr_embedding": -1.0}, ValueError, "loraplus_lr_embedding must not be negative"),
        ({"loraplus_weight_decay": None}, TypeError, "loraplus_weight_decay should be a number, got None"),
        ({"lr": -1.0}, ValueError, "the learning rate must not be negative"),
        ({"weight_decay": 0.1}, ValueError, "weight_decay=0.1: write loraplus_weight_decay"),
        ({"betta": 1}, TypeError, "AdamW has no argument 'betta'"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(changes, error, message):
    arguments = {"optimizer_cls": AdamW, "lr": 1e-3, "loraplus_lr_ratio": 16.0, **changes}
    with pytest.raises(error, match=message):
        create_loraplus_optimizer(adapted(), **arguments)


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        create_loraplus_optimizer(adapted().requires_grad_(False), AdamW, lr=1e-3, loraplus_lr_ratio=2)
