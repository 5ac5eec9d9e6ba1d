"""What tests of several kinds of adapters ask of each: fields, starts, files, gradients, and that PEFT agrees."""

import dataclasses
import inspect
import json
import re
import warnings

import numpy as np
from lora_helpers import (
    gradients,
    hugging_face_twin,
    logits_of,
    perturbed,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import PeftModel, get_peft_model
from lora_np.autograd.random import random_seed
from lora_np.storage import read_safetensors
from lora_np.training.optim import AdamW

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
TOLERANCES = {np.float32: 2e-5, np.float64: 1e-10}


def base_model(base, dtype=np.float32):
    """A new tiny model of this name, without adapters."""
    return BASES[base][0]().to(dtype=dtype)


def new(config, base, dtype=np.float32):
    """A new tiny model with a new adapter, the same in every run."""
    with random_seed(4):
        return get_peft_model(base_model(base, dtype), config)


def adapted(config, base, dtype=np.float32, scale=0.3):
    """A new tiny model with an adapter, whose numbers have moved away from where they began."""
    return perturbed(new(config, base, dtype), scale=scale)


def quietly(action):
    """What `action()` gives, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return action()


def assert_fields_are_peft_s(ours, theirs):
    """Two classes of configurations have the same fields, in one order and with the same defaults."""
    found, expected = ({f.name: f for f in dataclasses.fields(kind)} for kind in (ours, theirs))
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert list(found) == list(expected)
    made, wanted = quietly(ours), quietly(theirs)
    for name in found.keys() - {"peft_version"}:
        assert getattr(made, name) == getattr(wanted, name), name


def assert_starts_at_the_base(config, base):
    """A new adapter changes no bit of the logits, and noise on it does."""
    expected = logits_of(base_model(base))
    np.testing.assert_array_equal(logits_of(new(config, base)), expected)
    assert relative(logits_of(adapted(config, base)), expected) > 1e-2


def assert_comes_back(model, base, folder):
    """Saved and loaded, it has the same bits, also for training on; twice saved, the same files."""
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base_model(base, next(model.parameters()).dtype), folder, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    loaded.save_pretrained(folder / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (folder / "again" / name).read_bytes()


def assert_gradients_are_slopes(model, seed=5, step=1e-5):
    """In float64, the derivative of the loss in a random direction, tensor by tensor, is that of finite differences."""
    ids, rng = some_ids(model.config), np.random.default_rng(seed)
    found = gradients(model)
    assert found
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        direction, at = rng.standard_normal(p.shape), p.data
        losses = []
        for sign in (1, -1):
            p.data = at + sign * step * direction
            losses.append(model(ids, labels=ids).loss.item())
        p.data = at
        slope = (losses[0] - losses[1]) / (2 * step)
        assert abs((found[name] * direction).sum() - slope) < 1e-7 + 1e-6 * abs(slope), name


def assert_loss_falls(model, lr=1e-2, steps=12, below=0.9):
    """A few steps of AdamW on one batch bring the loss down, and leave the base as it was."""
    frozen = {name: p.data.copy() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    ids, losses = some_ids(model.config), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < below * losses[0], losses
    for name, p in model.named_parameters():
        if name in frozen:
            np.testing.assert_array_equal(p.data, frozen[name])


def assert_switched(config, base, model=None):
    """Two adapters: each alone, both at once as the sum of their ΔW, none, deleted and renamed."""
    model = adapted(config, base) if model is None else model
    model.add_adapter("b", dataclasses.replace(config))
    model.set_adapter("b")
    perturbed(model, seed=9)
    plain, one = logits_of(base_model(base)), logits_of(model)
    model.set_adapter(["default", "b"])
    both = logits_of(model)
    assert relative(both, one) > 1e-3
    model.merge_adapter()
    assert relative(logits_of(model), both) < 1e-5
    model.unmerge_adapter()
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), plain)
    model.set_adapter("b")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".b" in name for name in trained)
    model.delete_adapter("default")
    model.rename_adapter("b", "c")
    np.testing.assert_array_equal(logits_of(model), one)
    model.delete_adapter("c")
    np.testing.assert_array_equal(logits_of(model), plain)
    assert {name for name, _ in model.base_model.model.named_parameters()} == {
        name for name, _ in base_model(base).named_parameters()
    }
    assert not list(model.named_buffers())


def peft_config(config):
    """PEFT's configuration with the same fields."""
    import peft

    fields = {name: value for name, value in config.to_dict().items() if name != "peft_type"}
    return quietly(lambda: getattr(peft, type(config).__name__)(**fields))


def peft_model_of(config, base, dtype=np.float32, seed=3):
    """PEFT's model with an adapter as `config` says, its numbers moved away from where they began."""
    import peft
    import torch

    torch.manual_seed(seed)
    twin = hugging_face_twin(base_model(base, dtype))
    theirs = quietly(lambda: peft.get_peft_model(twin, peft_config(config))).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.3 * torch.randn_like(p) if p.requires_grad else 0
    return theirs


def peft_reads(folder, base, dtype=np.float32):
    """PEFT's model that has read the adapter in a folder, without a warning."""
    import peft

    twin = hugging_face_twin(base_model(base, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return peft.PeftModel.from_pretrained(twin, folder, is_trainable=True).eval()


def their_logits(theirs, ids):
    """The logits of PEFT's model."""
    import torch

    with torch.no_grad():
        return theirs(torch.tensor(ids)).logits.numpy()


def once(name):
    """The name of a PEFT parameter; of what all layers share, which torch lists under the first of them, its own."""
    return re.sub(r"^base_model\.model\..*\.(tinylora_v|vblora_vector_bank)\.", r"base_model.\1.", name)


def layout(folder):
    """{name in the file: (shape, dtype)} of an adapter, without the base weight that PEFT writes of an embedding."""
    arrays = read_safetensors(folder / "adapter_model.safetensors")[0]
    own = {name: a for name, a in arrays.items() if not name.endswith("embed_tokens.base_layer.weight")}
    return {name: (array.shape, array.dtype) for name, array in own.items()}


def assert_peft_computes_the_same(ours, base, folder, dtype=np.float32):
    """PEFT reads our files, with the same logits and gradients, names and counts, and writes the same ones."""
    import torch

    ours.eval()
    ours.save_pretrained(folder / "ours")
    theirs = peft_reads(folder / "ours", base, dtype)
    ids, tolerance = some_ids(ours.config), TOLERANCES[dtype]
    expected, found = theirs(torch.tensor(ids)).logits, ours(ids).logits
    assert relative(found.data, expected.detach()) < tolerance
    towards = np.random.default_rng(0).standard_normal(found.shape).astype(dtype)  # (the twin's loss is in float32)
    expected.backward(torch.tensor(towards))
    found.backward(towards)
    slopes = {once(name): p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    own = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert set(own) == set(slopes)
    numbers = [abs(slope).item() for slope in slopes.values() if slope.size == 1]
    for name, gradient in own.items():
        if gradient.size == 1:  # a sum of terms of either sign: beside the largest of its kind, as one may be near zero
            assert abs(gradient - slopes[name]).item() <= tolerance * max(numbers), name
        else:
            assert relative(gradient, slopes[name]) < tolerance, name
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    quietly(lambda: theirs.save_pretrained(folder / "theirs"))
    assert layout(folder / "ours") == layout(folder / "theirs")
    own, other = (json.loads((folder / who / "adapter_config.json").read_text()) for who in ("ours", "theirs"))
    assert not set(own) - set(other)
    assert own["peft_type"] == other["peft_type"]


def assert_reads_peft(config, base, folder, dtype=np.float32):
    """What PEFT has made and saved computes the same here, and its counts are those of a new one here."""
    theirs = peft_model_of(config, base, dtype)
    quietly(lambda: theirs.save_pretrained(folder))
    fresh = new(config, base, dtype)
    assert fresh.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    ours = PeftModel.from_pretrained(base_model(base, dtype), folder)
    ids = some_ids(ours.config)
    assert relative(logits_of(ours), their_logits(theirs, ids)) < TOLERANCES[dtype]


def assert_two_are_peft_s(configs, base, folder):
    """Two adapters at once, of these configurations, as in PEFT."""
    model = adapted(configs[0], base)
    model.add_adapter("b", configs[1])
    model.set_adapter("b")
    perturbed(model, seed=9, scale=0.3)
    model.save_pretrained(folder)
    theirs = peft_reads(folder, base)
    quietly(lambda: theirs.load_adapter(folder / "b", "b"))
    theirs.base_model.set_adapter(["default", "b"])
    model.set_adapter(["default", "b"])
    assert relative(logits_of(model), their_logits(theirs, some_ids(model.config))) < 2e-5
