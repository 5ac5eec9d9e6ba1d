"""An adapter's config as it is written into a file: naming the layers and ranks that are in that file."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from .. import nn
from .adapter import Adapter
from .init import NITER
from .model_adapter import PREFIX, targeted
from .peft_config import PeftConfig
from .starts.prepared import PREPARED
from .targets import is_shorthand, targets_of
from .types import Array
from .variants import PartialProjection
from .variants.parameter import OnParameter
from .variants.tokens import TokenAdapter

PLAIN_START = {"init_lora_weights": True, "eva_config": None, "corda_config": None, "lora_ga_config": None}


def check_saved(config: Any, as_plain_lora: bool) -> None:
    """ValueError if a file could not say what the initialisation did to the base weight."""
    kind = getattr(config, "init_lora_weights", None)
    if kind == "loftq" and as_plain_lora:
        raise ValueError(
            "a LoftQ adapter goes with the rounded base: no LoRA makes up for rounding on the unchanged one"
        )
    if kind in PREPARED and not as_plain_lora:
        what = "was computed from data, which a file does not have"
    elif NITER.fullmatch(str(kind)) and not as_plain_lora:
        what = "draws random numbers"
    else:
        return
    raise ValueError(
        f"init_lora_weights={kind!r} {what}: loading would not take the same part out of the base weight; save with "
        "as_plain_lora=True"
    )


def as_written(
    config: PeftConfig,
    model: nn.Module,
    adapters: Mapping[str, Adapter],
    arrays: Mapping[str, Array],
    as_plain_lora: bool = False,
) -> PeftConfig:
    """The config for a file with these arrays, of an adapter with these {layer: Adapter} on `model`.

    It is changed where the file holds other layers or ranks than it says (whole projections, doubled ranks), and names
    the layers where it has a word for them ("all-linear", None), which could mean others where the file is loaded. As
    in PEFT a file is for use: inference_mode.
    """
    if as_plain_lora and config.special:
        raise ValueError(f"as_plain_lora: an adapter with {config.special} is more than a pair A and B")
    changes: dict[str, Any] = {}
    if any(isinstance(adapter, PartialProjection) for adapter in adapters.values()):
        changes = _targets_as_layers(config, adapters)
    elif is_shorthand(config.target_modules):
        own = targeted(adapters)
        changes = {"target_modules": _names(config, model, own) if own else []}
    ranked = {name: adapter for name, adapter in adapters.items() if not isinstance(adapter, TokenAdapter)}
    ranks = _ranks(ranked, arrays)
    if any(ranks[target] != adapter.r for target, adapter in ranked.items()):
        if as_plain_lora:
            changes |= PLAIN_START
        changes |= _grown(config, ranked, ranks)
    return dataclasses.replace(config, **{**changes, **config.in_file_of(adapters)}, inference_mode=True)


def _names(config, model, layers):
    """Names that mean these layers: the last parts of theirs, if no other layer's name ends so; or all of theirs."""
    endings = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    try:
        found = targets_of(model, dataclasses.replace(config, target_modules=endings))
    except ValueError:  # one of them is also the end of a name that no adapter can be at
        return layers
    return endings if list(found) == layers else layers


def _ranks(adapters, arrays):
    """{layer: the rank of its A in the file}; of an adapter without such a matrix, its own."""
    keys = {target: f"{PREFIX}{target}.lora_A.weight" for target in adapters}
    return {t: len(arrays[keys[t]]) if keys[t] in arrays else adapter.r for t, adapter in adapters.items()}


def _grown(config, adapters, ranks):
    """The fields for these ranks, larger than those of the adapters, with lora_alpha such that each s is as it was."""
    growths = {t: ranks[t] / adapter.r for t, adapter in adapters.items()}
    alphas = {t: adapter.lora_alpha * _alpha_growth(config, growths[t]) for t, adapter in adapters.items()}
    growth = next(iter(growths.values())) if len(set(growths.values())) == 1 else 1.0
    r, alpha = round(config.r * growth), config.lora_alpha * _alpha_growth(config, growth)
    names = {t: f"{t}.weight" if isinstance(adapter, OnParameter) else t for t, adapter in adapters.items()}
    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(names[t]): own for t, own in ranks.items() if own != r},
        "alpha_pattern": {re.escape(names[t]): own for t, own in alphas.items() if own != alpha},
    }


def _alpha_growth(config, growth):
    """The factor for lora_alpha that leaves s as it was when the rank is multiplied by `growth`."""
    factor = growth**0.5 if config.use_rslora else growth
    return int(factor) if factor == int(factor) else factor  # lora_alpha stays a whole number


def _targets_as_layers(config, adapters):
    """The fields that name layers, with "c_attn", which a file holds whole, in the place of "c_attn.q" and the like."""
    if config.exclude_modules:  # it may have left out parts in some of the layers: name the layers one by one
        return {
            "target_modules": targeted(adapters),
            **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        }
    parts = {part for adapter in adapters.values() if isinstance(adapter, PartialProjection) for part in adapter.names}
    split = [(target, *target.rpartition(".")) for target in config.target_modules]
    return {"target_modules": list(dict.fromkeys(head if tail in parts else target for target, head, _, tail in split))}
