"""What the tests of several kinds of adapters do in the same way: a model with one, and its twin in PEFT."""

import dataclasses
import json
import warnings
from types import SimpleNamespace

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

from lora_np import PeftModel, get_peft_model, manual_seed, nn
from lora_np.autograd import Tensor
from lora_np.autograd.gradcheck import gradcheck
from lora_np.storage import read_safetensors
from lora_np.training.optim import AdamW

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-10}


class OneLayer(nn.Module):
    """A model of a single linear layer, called `layer`."""

    def __init__(self, fan_in, fan_out):
        self.layer = nn.Linear(fan_in, fan_out)


def adapted(kind, base="llama", dtype=np.float32, **options):
    """A tiny model in evaluation mode with an adapter of this configuration's class, as it is at first."""
    make, targets = BASES[base]
    manual_seed(6)
    if base == "gpt2" and "fan_in_fan_out" in {field.name for field in dataclasses.fields(kind)}:
        options = {"fan_in_fan_out": True, **options}
    return get_peft_model(make().to(dtype=dtype), kind(**{"target_modules": targets, **options}))


def moved(kind, base="llama", dtype=np.float32, scale=0.3, **options):
    """The same, its numbers moved away from where they began."""
    return perturbed(adapted(kind, base, dtype, **options), scale=scale)


def twin_of_file(base, directory, dtype=np.float32):
    """PEFT's model with the adapter in a folder, to be trained, in evaluation mode."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = hugging_face_twin(BASES[base][0]().to(dtype=dtype))
        twin = peft.PeftModel.from_pretrained(twin, directory, is_trainable=True).eval()
    for name, p in twin.named_parameters():
        if "ranknum" in name:
            p.requires_grad = False  # a number, which PEFT trains by mistake where the base is in float64
    return twin


def assert_equal_in_peft(ours, base, directory, dtype=np.float32):
    """PEFT reads our file: equal logits, losses, gradients and counts of what is trained; returns PEFT's model.

    (The loss is computed from the logits here: Transformers rounds them to float32 first.)
    """
    import torch

    ours.save_pretrained(directory)
    theirs = twin_of_file(base, directory, dtype)
    assert ours.get_nb_trainable_parameters()[0] == theirs.get_nb_trainable_parameters()[0]
    ids = some_ids(ours.config)
    logits = theirs(input_ids=torch.tensor(ids)).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(ids[:, 1:]).flatten())
    loss.backward()
    assert relative(logits_of(ours), logits.detach()) < TOLERANCE[dtype]
    assert relative(ours(ids, labels=ids).loss.item(), loss.item()) < TOLERANCE[dtype]
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    found = gradients(ours)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        assert relative(gradient, expected[name]) < TOLERANCE[dtype], name
    return theirs


def assert_read_from_peft(config, base, directory):
    """We read what PEFT writes, drawn by PyTorch: equal logits. Ours, saved again, has the layout of PEFT's."""
    import peft
    import torch

    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(hugging_face_twin(BASES[base][0]()), config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p += 0.1 * torch.randn_like(p) if p.requires_grad else 0
    theirs.save_pretrained(directory / "theirs")
    ours = PeftModel.from_pretrained(BASES[base][0](), directory / "theirs")
    assert relative(logits_of(ours), logits_of(theirs.base_model.model)) < 2e-5
    ours.save_pretrained(directory / "ours")
    assert layout(directory / "ours") == layout(directory / "theirs")
    written, expected = (json.loads((directory / w / "adapter_config.json").read_text()) for w in ("ours", "theirs"))
    assert not set(written) - set(expected)
    same = set(written) - {"base_model_name_or_path", "target_modules"}
    assert {name: written[name] for name in same} == {name: expected[name] for name in same}
    return ours


def layout(directory):
    """{name: shape} of an adapter's file.

    Without what PEFT writes too: the base weight of an adapted "embed_tokens", and for each layer what all share.
    """
    arrays, _ = read_safetensors(directory / "adapter_model.safetensors")
    twice = {key for key in arrays if key.count(".") > 1 and f"base_model.{key.rpartition('.')[2]}" in arrays}
    return {key: a.shape for key, a in arrays.items() if key not in twice and not key.endswith("base_layer.weight")}


def assert_comes_back(model, base, directory):
    """A file holds all of it: loaded again it is the same, bit for bit."""
    model.save_pretrained(directory)
    loaded = PeftModel.from_pretrained(BASES[base][0](), directory, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def assert_fields_are_pefts(kind, **needed):
    """The fields of a configuration are PEFT's: their order, which are positional, and their defaults."""
    import peft

    theirs = getattr(peft, kind.__name__)
    assert [field.name for field in dataclasses.fields(kind)] == [field.name for field in dataclasses.fields(theirs)]
    expected, found = theirs(**needed).to_dict(), kind(**needed).to_dict()
    assert {**found, "peft_version": None} == {**expected, "peft_version": None}


def assert_gradients_by_differences(model):
    """A layer's result against finite differences, by its input and by all that is trained beside it, in float64."""
    _, layer = model.base_model.layers()[-1]
    trained = [p for p in layer.parameters() if p.requires_grad]
    x = np.random.default_rng(5).standard_normal((2, 3, layer.in_features))

    gradcheck(lambda x, *_: layer(x), [Tensor(x, requires_grad=True), *trained])


def assert_same_rank_dropout(ours, directory, monkeypatch):
    """In training, PEFT's layer gives what ours does where both draw the same random numbers."""
    import torch

    from lora_np.lora.family import lycoris

    ours.save_pretrained(directory)
    numbers = np.random.default_rng(1).random(16, dtype=np.float32)
    theirs = twin_of_file("llama", directory).train()
    layer, expected = ours.train().base_model.layers()[0][1], theirs.base_model.model.model.layers[0].self_attn.q_proj
    x = np.random.default_rng(2).standard_normal((5, 16)).astype(np.float32)
    monkeypatch.setattr(torch, "rand", lambda n: torch.tensor(numbers) if n == 16 else torch.ones(n))
    monkeypatch.setattr(lycoris, "generator", lambda xp=np: SimpleNamespace(random=lambda *_, **__: numbers))
    assert relative(layer(x).data, expected(torch.tensor(x)).detach()) < 2e-5


def losses_of_training(model, steps=12, lr=3e-2):
    """The losses of a few steps on one batch."""
    ids, losses = some_ids(model.config), []
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in range(steps):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses
