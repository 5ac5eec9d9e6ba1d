"""Adapters as files: adapter_config.json and adapter_model.safetensors, as PEFT writes and reads them.

The weights are one array for each trained tensor, such as

    base_model.model.transformer.h.0.attn.c_attn.lora_A.weight  (r, in)

The name leaves out the adapter's own, which in memory comes after `lora_A`: it can be loaded under any name.
"""

import dataclasses
import re
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import nn
from ..autograd.devices import array_module
from ..storage import one_version, read_json, read_safetensors, together, write_safetensors
from .config import CONFIG_FILE, PeftConfig
from .foreign import refuse_foreign
from .init import NITER
from .kinds import config_class
from .model_adapter import BASE_WEIGHT, PREFIX, ModelAdapter, new_adapter
from .stored import fitted, without_names
from .types import Array, StrPath
from .variants import PartialProjection

if TYPE_CHECKING:
    from .peft_model import PeftModel

WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(peft_model: "PeftModel", name: str, directory: StrPath, as_plain_lora: bool = False) -> None:
    """Write one adapter: "default" into `directory` itself, any other into the folder of its name there.

    With `as_plain_lora`, one whose initialisation took s·B₀A₀ out of the base weight (PiSSA, OLoRA) is written as plain
    LoRA of twice the rank for the unchanged base: A' = [A; A₀], B' = [B, -B₀], as it computes W + s·(B A - B₀A₀).
    """
    directory = Path(directory) if name == "default" else Path(directory) / name
    config, tuner = peft_model.peft_config[name], peft_model.base_model
    model_adapter = tuner.adapter(name)
    model_adapter.biases = tuner.biases(config.bias)
    kind = getattr(config, "init_lora_weights", None)
    if NITER.fullmatch(str(kind)) and not as_plain_lora:
        raise ValueError(
            f"init_lora_weights={kind!r} draws random numbers: loading would take another part out of the base weight; "
            "save with as_plain_lora=True"
        )
    arrays = model_adapter.saved_arrays()
    for target, adapter in model_adapter.adapters.items():
        if adapter.brings_base:
            arrays[f"{PREFIX}{target}.{BASE_WEIGHT}"] = tuner.adapted[target].base_layer.weight.data
    for target, adapter in model_adapter.adapters.items() if as_plain_lora else ():
        if adapter.initial is not None:
            (A, B, _), xp = adapter.initial, array_module(adapter.initial[0])
            key_A, key_B = (f"{PREFIX}{target}.lora_{letter}.weight" for letter in "AB")
            arrays[key_A] = xp.concatenate([arrays[key_A], A])
            arrays[key_B] = xp.concatenate([arrays[key_B], -B], axis=1)
    with together(directory):
        write_safetensors(directory / WEIGHTS_FILE, arrays)
        _config_for_file(config, model_adapter.adapters, arrays, as_plain_lora).save_pretrained(directory)


def _config_for_file(config, adapters, arrays, as_plain_lora):
    """The config, changed where the file holds other layers or ranks than it says: whole projections, doubled ranks."""
    changes = {}
    if any(isinstance(adapter, PartialProjection) for adapter in adapters.values()):
        changes = _targets_as_layers(config, adapters)
    keys = {target: f"{PREFIX}{target}.lora_A.weight" for target in adapters}
    ranks = {t: len(arrays[keys[t]]) if keys[t] in arrays else adapter.r for t, adapter in adapters.items()}
    growths = {t: ranks[t] / adapter.r for t, adapter in adapters.items()}
    if set(growths.values()) != {1.0}:
        if as_plain_lora:
            changes["init_lora_weights"] = True
        alphas = {t: adapter.lora_alpha * _alpha_growth(config, growths[t]) for t, adapter in adapters.items()}
        growth = next(iter(growths.values())) if len(set(growths.values())) == 1 else 1.0
        r, alpha = round(config.r * growth), config.lora_alpha * _alpha_growth(config, growth)
        changes |= {"r": r, "lora_alpha": alpha}
        changes["rank_pattern"] = {re.escape(t): own for t, own in ranks.items() if own != r}
        changes["alpha_pattern"] = {re.escape(t): own for t, own in alphas.items() if own != alpha}
    return dataclasses.replace(config, **changes, inference_mode=True)


def _alpha_growth(config, growth):
    """The factor for lora_alpha that leaves s as it was when the rank is multiplied by `growth`."""
    factor = growth**0.5 if config.use_rslora else growth
    return int(factor) if factor == int(factor) else factor  # lora_alpha stays a whole number


def _targets_as_layers(config, adapters):
    """The fields that name layers, with "c_attn", which a file holds whole, in the place of "c_attn.q" and the like."""
    if config.exclude_modules:  # it may have left out parts in some of the layers: name the layers one by one
        return {
            "target_modules": list(adapters),
            **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        }
    parts = {part for adapter in adapters.values() if isinstance(adapter, PartialProjection) for part in adapter.names}
    split = [(target, *target.rpartition(".")) for target in config.target_modules]
    return {"target_modules": list(dict.fromkeys(head if tail in parts else target for target, head, _, tail in split))}


@one_version
def read_adapter(
    directory: StrPath,
    model: nn.Module,
    is_trainable: bool = False,
    beside: tuple[Iterable[str], Iterable[str]] = ((), ()),
    config: PeftConfig | None = None,
) -> tuple[PeftConfig, ModelAdapter, dict[str, Array]]:
    """(config, ModelAdapter, {name in the file: array}) of the adapter in `directory`, which fits `model`.

    The ModelAdapter is in no layer yet, and does not hold the arrays yet: `fill` does that. FileNotFoundError if there
    is no adapter; ValueError, with the file's name, if a file is damaged or does not fit. An all-zero B gives a
    warning: such an adapter does nothing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory with an adapter in it")
    refuse_foreign(directory, WEIGHTS_FILE)
    config = read_config(directory) if config is None else dataclasses.replace(config)
    path = directory / WEIGHTS_FILE
    with _naming(directory):
        config, arrays, bases = fitted(config, read_safetensors(path)[0], model, path)
        config.inference_mode = not is_trainable
        with nn.weightless():  # first without memory, to compare names and shapes: a wrong config may ask for terabytes
            expected = new_adapter(model, config, beside).bringing(bases)
        arrays = without_names(arrays, expected.tensors())
        _check_fits(expected, arrays, path)
        model_adapter = new_adapter(model, config, beside).bringing(bases)
    decisive = [f"{PREFIX}{target}.{a.idle_if_zero}" for target, a in model_adapter.adapters.items() if a.idle_if_zero]
    zero = [key for key in decisive if not arrays[key].any()]
    if zero:
        warnings.warn(
            f"{path}: B is all zero in {len(zero)} layers, so they change nothing ({zero[0]}, ...)", stacklevel=6
        )
    return config, model_adapter, arrays


def read_config(directory: StrPath) -> PeftConfig:
    """The configuration in a directory, of whatever peft_type it is. Errors as for `PeftConfig.from_pretrained`."""
    path = Path(directory) / CONFIG_FILE
    fields = read_json(path)
    return config_class(fields.get("peft_type", "LORA"), path).from_dict(fields, str(path))


@contextmanager
def _naming(directory):
    """Inside this block, an error that names no file in the directory gets the configuration's name."""
    try:
        yield
    except (ValueError, OverflowError, MemoryError) as error:
        named = str(error) if str(directory) in str(error) else f"{directory / CONFIG_FILE}: {error}"
        raise ValueError(named) from None


def _check_fits(model_adapter, arrays, path):
    """ValueError if the names and shapes of the arrays in the file `path` are not those of the adapter's tensors."""
    expected = {key: tensor.shape for key, tensor in model_adapter.tensors().items()}
    given = {key: tuple(array.shape) for key, array in arrays.items()}
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
