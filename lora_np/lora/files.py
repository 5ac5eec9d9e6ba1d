"""Adapters as files: adapter_config.json and adapter_model.safetensors, as PEFT writes and reads them.

In the file a parameter's name lacks the adapter's: `….c_attn.lora_A.default.weight` in memory is
`….c_attn.lora_A.weight` on disk, so that an adapter can be loaded under any name.
"""

import warnings
from pathlib import Path

import numpy as np

from ..autograd.backend import to_numpy
from ..storage import read_safetensors, write_safetensors
from .config import CONFIG_FILE, LoraConfig
from .targets import find_targets

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


def adapter_parameters(peft_model, name):
    """{name in the file: Parameter} of one adapter, its trained biases included."""
    found = {}
    for target, layer in peft_model.base_model.layers():
        if name in layer.lora_A:
            found[f"{PREFIX}{target}.lora_A.weight"] = layer.lora_A[name].weight
            found[f"{PREFIX}{target}.lora_B.weight"] = layer.lora_B[name].weight
    biases = peft_model.base_model.biases(peft_model.peft_config[name].bias)
    return {**found, **{PREFIX + bias: p for bias, p in biases.items()}}


def write_adapter(peft_model, name, directory):
    """Write one adapter, the "default" one into `directory` itself, another into the folder of its name in it."""
    directory = Path(directory) if name == "default" else Path(directory) / name
    arrays = {key: p.data for key, p in adapter_parameters(peft_model, name).items()}
    write_safetensors(directory / WEIGHTS_FILE, arrays)
    peft_model.peft_config[name].save_pretrained(directory)


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
    state = _without_base_weights(state, model, path)
    check_adapter(model, config, state, path)
    zero = [key for key, array in state.items() if key.endswith("lora_B.weight") and not array.any()]
    if zero:
        warnings.warn(
            f"{path}: B is all zero in {len(zero)} layers, so they change nothing ({zero[0]}, ...)", stacklevel=3
        )
    return config, state


def _without_base_weights(state, model, path):
    """Leave out the base weights that PEFT saves beside an adapted head or embedding, if they are the model's own."""
    weights = {name.replace(".base_layer.", "."): p.data for name, p in model.named_parameters(remove_duplicate=False)}
    for key in [key for key in state if key.endswith(".base_layer.weight")]:
        own = weights.get(key.removeprefix(PREFIX).replace(".base_layer.", "."))
        if own is None or not np.array_equal(to_numpy(own), state[key]):
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
    targets = find_targets(model, config.target_modules)
    expected = {}
    for target in targets:
        layer = model.get_submodule(target)
        expected[f"{PREFIX}{target}.lora_A.weight"] = (config.r, layer.in_features)
        expected[f"{PREFIX}{target}.lora_B.weight"] = (layer.out_features, config.r)
    for name, p in model.named_parameters():
        module, _, last = name.replace(".base_layer.", ".").rpartition(".")
        if last == "bias" and (config.bias == "all" or (config.bias == "lora_only" and module in targets)):
            place = f"{module}.base_layer" if module in targets else module
            expected[f"{PREFIX}{place}.bias"] = p.shape
    return expected


def load_adapter_state(peft_model, name, state):
    """Copy the arrays of an adapter's file into the adapter `name`."""
    names = {id(p): full for full, p in peft_model.named_parameters()}
    found = adapter_parameters(peft_model, name)
    peft_model.load_state_dict({names[id(found[key])]: array for key, array in state.items()}, strict=False)
