"""An adapter's numbers read once more, from a folder: those of an earlier step, or of the best one."""

import dataclasses
from pathlib import Path
from typing import Any

from .. import nn
from ..storage import one_version, read_safetensors
from .config import LoraConfig
from .files import WEIGHTS_FILE, check_fits, read_config
from .foreign import refuse_foreign
from .peft_config import NOTHING
from .state import tensors_of
from .stored import fitted, without_names
from .types import StrPath
from .variants.parameter import OnParameter

SAID_OTHERWISE = {  # fields that the names and shapes of the tensors tell, or the scalings, or that say how it began
    *("r", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias"),
    *("target_parameters", "trainable_token_indices", "fan_in_fan_out", "lora_alpha", "alpha", "alpha_pattern"),
    *("init_lora_weights", "init_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    "runtime_config",
}


@nn.all_or_nothing
@one_version
def reload_adapter(directory: StrPath, tuner: Any, name: str) -> None:
    """Put the numbers of the adapter in a folder into the adapter `name` of a LoraModel. All else stays as it is.

    ValueError, with nothing changed, unless both are of the same layers and have the same settings.
    """
    folder = Path(directory)
    refuse_foreign(folder, WEIGHTS_FILE)
    path = folder / WEIGHTS_FILE
    config, arrays, bases = fitted(read_config(folder), read_safetensors(path)[0], tuner.model, path)
    adapter, tensors = tensors_of(tuner, name)
    other = _difference(config, tuner.peft_config[name], adapter.adapters)
    if other or bases:
        raise _refusal(f"{folder} has {other or f'base weights of its own, {next(iter(bases))}'}", name)
    arrays = adapter.read(without_names(arrays, tensors), path)
    try:
        check_fits(adapter, arrays, path, config)
    except ValueError as error:
        raise _refusal(error, name) from None
    adapter.incoming = arrays
    adapter.fill()


def _difference(config, own, adapters):
    """In what the config of a file differs from that of the adapter it is to be read into, in words; None if not."""
    if type(config) is not type(own):
        return f"a {config.peft_type} adapter in the place of a {own.peft_type} adapter"
    free = {*SAID_OTHERWISE, "rank_pattern"} if type(own) is LoraConfig else SAID_OTHERWISE
    for field in dataclasses.fields(own):
        before, new = getattr(own, field.name), getattr(config, field.name)
        if field.name not in free and before != new and not (before in NOTHING and new in NOTHING):
            return f"{field.name}={new!r} in the place of {before!r}"
    for target, adapter in adapters.items():
        place = f"{target}.weight" if isinstance(adapter, OnParameter) else target
        alpha = config.rank_and_alpha(place)[1]
        if None not in (alpha, adapter.lora_alpha) and alpha != adapter.lora_alpha:
            return f"lora_alpha={alpha!r} in the place of {adapter.lora_alpha!r} at {target}"
    return None


def _refusal(why, name):
    return ValueError(f"{why}: this is not {name!r} at another time; delete_adapter({name!r}) first, or load it beside")
