"""A model with LoRA and PEFT's twin of it, which take steps with the same gradients."""

import numpy as np
from lora_helpers import hugging_face_twin, perturbed, tiny_model

from lora_np import LoraConfig, get_peft_model, manual_seed
from lora_np.lora.layer import AdaptedLayer

TARGETS = ["c_attn", "mlp.c_proj"]


def adapted(dtype=np.float64, make=tiny_model, **settings):
    """A tiny model in `dtype` with LoRA beside some layers; A and B are random, and always the same."""
    settings = {"r": 3, "lora_alpha": 6, "target_modules": TARGETS, **settings}
    base = make().to(dtype=dtype)
    manual_seed(0)
    return perturbed(get_peft_model(base, LoraConfig(fan_in_fan_out=make is tiny_model, **settings)))


def twin_of(model):
    """PEFT's model with the same weights and names."""
    import peft
    import torch

    fields = {k: v for k, v in model.peft_config["default"].to_dict().items() if k != "peft_type"}
    theirs = peft.get_peft_model(hugging_face_twin(plain_of(model)), peft.LoraConfig(**fields))
    theirs = theirs.to(torch.float64 if model.dtype == np.float64 else torch.float32)
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(torch.tensor(ours[name].data))
    return theirs


def plain_of(model):
    """A model like the base of this one: where its adapters stand, there are none."""
    plain = tiny_model().to(dtype=model.dtype)
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, AdaptedLayer):
            plain.get_submodule(name).weight.data = module.base_layer.weight.data.copy()
    return plain


def steps_together(ours, theirs, model, twin, steps=10):
    """Both optimizers take these steps, with gradients of widely different sizes for what is trained in either.

    Returns the largest relative difference of a parameter's change.
    """
    import torch

    rng = np.random.default_rng(3)
    own, other = dict(model.named_parameters()), dict(twin.named_parameters())
    begin = {name: p.data.copy() for name, p in own.items()}
    for _ in range(steps):
        for name, p in own.items():
            assert p.requires_grad == other[name].requires_grad, name
            if p.requires_grad:
                grad = (10.0 ** rng.uniform(-3, 1) * rng.standard_normal(p.shape)).astype(p.dtype)
                p.grad, other[name].grad = grad, torch.tensor(grad)
        ours.step()
        theirs.step()
    found = {name: (p.data, other[name].detach().numpy()) for name, p in own.items() if p.requires_grad}
    moved = {name: np.linalg.norm(theirs - begin[name]) for name, (_, theirs) in found.items()}
    assert found
    assert all(moved.values())
    return max(np.linalg.norm(a - b) / moved[name] for name, (a, b) in found.items())


def losses_of(model, optimizer, steps=12):
    """The losses of a few steps on the same ids."""
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (4, 10))
    losses = []
    for _ in range(steps):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def as_in_a_file(state):
    """A state as it comes back from a file: arrays of their own, a number of steps as an array."""
    arrays = {i: {name: np.array(value) for name, value in own.items()} for i, own in state["state"].items()}
    return {**state, "state": arrays}
