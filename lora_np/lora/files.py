"""Adapters as files: adapter_config.json and adapter_model.safetensors, as PEFT writes and reads them.

In the file a parameter's name lacks the adapter's: `….c_attn.lora_A.default.weight` in memory is
`….c_attn.lora_A.weight` on disk, so that an adapter can be loaded under any name.
"""

import dataclasses
import re
import warnings
from pathlib import Path

import numpy as np

from .. import nn
from ..autograd.backend import array_module, to_numpy
from ..storage import read_safetensors, write_safetensors
from .config import CONFIG_FILE, LoraConfig
from .init import NITER, changes_base
from .projection import PartialProjection
from .targets import targets_of
from .tuner import saved_module_names

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def adapter_parameters(peft_model, name):
    """{name in the file: Parameter} of one adapter, its trained biases and saved modules included."""
    tuner, config = peft_model.base_model, peft_model.peft_config[name]
    found = {}
    for target, layer in tuner.layers():
        if layer.has(name):
            found |= {f"{PREFIX}{target}.{key}": p for key, p in layer.parameters_of(name).items()}
    for target, module in tuner.saved_modules():
        if name in module.modules_to_save:
            copy = module.modules_to_save[name]
            found |= {f"{PREFIX}{target}.{key}": p for key, p in copy.named_parameters()}
    return found | {PREFIX + bias: p for bias, p in tuner.biases(config.bias).items()}


def write_adapter(peft_model, name, directory, as_plain_lora=False):
    """Write one adapter, the "default" one into `directory` itself, another into the folder of its name in it.

    With `as_plain_lora`, one that took part of the base weight out of it (PiSSA, OLoRA) is written as plain LoRA of
    twice the rank, for the unchanged base: A' = [A; A₀], B' = [B, -B₀], since W + s·(B A - B₀ A₀) is what it computes.
    """
    directory = Path(directory) if name == "default" else Path(directory) / name
    start = peft_model.peft_config[name].init_lora_weights
    if NITER.fullmatch(str(start)) and not as_plain_lora:
        raise ValueError(
            f"init_lora_weights={start!r} began at random, loading would begin elsewhere: save with as_plain_lora=True"
        )
    arrays = {key: p.data for key, p in adapter_parameters(peft_model, name).items()}
    for target, layer in peft_model.base_model.layers():
        if layer.has(name):
            saved = layer.saved_arrays(name)
            if as_plain_lora and name in layer.initial:
                A, B, _ = layer.initial[name]
                xp = array_module(A)
                saved["lora_A.weight"] = xp.concatenate([saved["lora_A.weight"], A])
                saved["lora_B.weight"] = xp.concatenate([saved["lora_B.weight"], -B], axis=1)
            arrays |= {f"{PREFIX}{target}.{key}": array for key, array in saved.items()}
    config = _config_for_file(peft_model, name, arrays, as_plain_lora)
    write_safetensors(directory / WEIGHTS_FILE, arrays)
    config.save_pretrained(directory)


def _config_for_file(peft_model, name, arrays, as_plain_lora):
    """The adapter's LoraConfig, changed where the file holds other layers or ranks than it says (parts, doubled)."""
    config = peft_model.peft_config[name]
    layers = {target: layer for target, layer in peft_model.base_model.layers() if layer.has(name)}
    changes = {}
    if any(isinstance(layer.variants.get(name), PartialProjection) for layer in layers.values()):
        changes = _targets_as_layers(config, layers)
    ranks, alphas, growths = {}, {}, set()
    for target, layer in layers.items():
        ranks[target] = len(arrays.get(f"{PREFIX}{target}.lora_A.weight", range(layer.r[name])))
        growth = ranks[target] / layer.r[name]
        alphas[target] = layer.lora_alpha[name] * _alpha_growth(config, growth)
        growths.add(growth)
    if growths != {1.0}:
        if as_plain_lora:
            changes["init_lora_weights"] = True
        growth = growths.pop() if len(growths) == 1 else 1.0
        r, alpha = round(config.r * growth), config.lora_alpha * _alpha_growth(config, growth)
        changes |= {"r": r, "lora_alpha": alpha}
        changes["rank_pattern"] = {re.escape(t): own for t, own in ranks.items() if own != r}
        changes["alpha_pattern"] = {re.escape(t): own for t, own in alphas.items() if own != alpha}
    return dataclasses.replace(config, **changes) if changes else config


def _alpha_growth(config, growth):
    """By what lora_alpha grows when the rank grows by `growth`, for s to stay what it was."""
    return growth**0.5 if config.use_rslora else growth


def _targets_as_layers(config, layers):
    """The fields that name layers, with "c_attn.q" and its like replaced by the whole projection that a file holds."""
    if config.exclude_modules:  # it may have left out a part in some of the layers
        return {
            "target_modules": list(layers),
            **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        }
    parts = {part for layer in layers.values() for part in layer.base_layer_parts}
    split = [(target, *target.rpartition(".")) for target in config.target_modules]
    return {"target_modules": list(dict.fromkeys(head if tail in parts else target for target, head, _, tail in split))}


def read_adapter(directory, model, is_trainable=False):
    """(LoraConfig, {name in the file: array}) of the adapter in `directory`, once it is known to fit `model`.

    FileNotFoundError if there is none; ValueError, with the file's name, if a file is damaged or does not fit.
    A B that is all zero is a warning: such an adapter does nothing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory with an adapter in it")
    config = LoraConfig.from_pretrained(directory)
    config.inference_mode = not is_trainable
    path = directory / WEIGHTS_FILE
    state, _ = read_safetensors(path)
    state = _without_base_weights(state, model, path, changes_base(config.init_lora_weights))
    check_adapter(model, config, state, path)
    zero = [key for key, array in state.items() if key.endswith(("lora_B.weight", "embedding_B")) and not array.any()]
    if zero:
        warnings.warn(
            f"{path}: B is all zero in {len(zero)} layers, so they change nothing ({zero[0]}, ...)", stacklevel=3
        )
    return config, state


def _without_base_weights(state, model, path, changed=False):
    """Leave out the base weights that PEFT saves beside an adapted head or embedding, if they are the model's own.

    With `changed` they are what the adapter's start has left of them, and will be so again.
    """
    weights = {name.replace(".base_layer.", "."): p.data for name, p in model.named_parameters(remove_duplicate=False)}
    for key in [key for key in state if key.endswith(".base_layer.weight")]:
        own = weights.get(key.removeprefix(PREFIX).replace(".base_layer.", "."))
        if own is None or not (changed or np.array_equal(to_numpy(own), state[key])):
            raise ValueError(f"{path} was trained on another base model: its {key} is not the model's")
    return {key: array for key, array in state.items() if not key.endswith(".base_layer.weight")}


def check_adapter(model, config, state, path):
    """ValueError if the arrays of `state`, read from `path`, are not just those that `config` asks for on `model`."""
    try:
        expected = expected_shapes(model, config)
    except ValueError as error:
        raise ValueError(f"{path.parent / CONFIG_FILE}: {error}") from None
    given = {key: tuple(array.shape) for key, array in state.items()}
    problems = [f"missing {key}" for key in expected if key not in given]
    problems += [f"unexpected {key}" for key in given if key not in expected]
    problems += [
        f"{key} has shape {given[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{path} does not fit the model: {'; '.join(problems[:5])}{more}")


def expected_shapes(model, config):
    """{name in the file: shape} of an adapter with this configuration on this model, adapted already or not."""
    targets, expected = targets_of(model, config), {}
    for target in targets:
        layer = model.get_submodule(target)
        layer, r = getattr(layer, "base_layer", layer), config.rank_and_alpha(target)[0]
        if isinstance(layer, nn.Embedding):
            expected[f"{PREFIX}{target}.lora_embedding_A"] = (r, layer.num_embeddings)
            expected[f"{PREFIX}{target}.lora_embedding_B"] = (layer.embedding_dim, r)
            continue
        expected[f"{PREFIX}{target}.lora_A.weight"] = (r, layer.in_features)
        expected[f"{PREFIX}{target}.lora_B.weight"] = (layer.out_features, r)
        if config.use_dora:
            expected[f"{PREFIX}{target}.lora_magnitude_vector"] = (layer.out_features,)
        if config.lora_bias:
            expected[f"{PREFIX}{target}.lora_B.bias"] = (layer.out_features,)
    saved = saved_module_names(model, config)
    for target in saved:
        module = model.get_submodule(target)
        module = getattr(module, "original_module", module)
        expected |= {f"{PREFIX}{target}.{name}": p.shape for name, p in module.named_parameters()}
    for name, p in model.named_parameters():
        if any(mark in name for mark in (".lora_", ".modules_to_save.", ".original_module.")):
            continue
        module, _, last = name.replace(".base_layer.", ".").rpartition(".")
        if last == "bias" and (config.bias == "all" or (config.bias == "lora_only" and module in targets)):
            place = f"{module}.base_layer" if module in targets else module
            if not any(module == s or module.startswith(s + ".") for s in saved):
                expected[f"{PREFIX}{place}.bias"] = p.shape
    return expected


def load_adapter_state(peft_model, name, state):
    """Copy the arrays of an adapter's file into the adapter `name`."""
    names = {id(p): full for full, p in peft_model.named_parameters()}
    found = adapter_parameters(peft_model, name)
    peft_model.load_state_dict({names[id(found[key])]: array for key, array in state.items()}, strict=False)
