r"""Any update as LoRA: the nearest s·B A of rank r to a ΔW, of an adapter of any kind, or of two models.

By Eckart and Young (1936) the nearest of rank r to ΔW = U S Vᵀ, in the Frobenius norm, is that of its r largest
singular values; what is left out are the others, √(Σ_{i>r} σ_i²). A = Vᵀ (r, in), B = U S (out, r), and alpha = r, so
that s = 1. The rank is a number, or a part of the energy Σ σ_i²: then each layer has the smallest that holds this much.
"""

import dataclasses
import numbers
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd.devices import array_module
from ..expect import A_MODEL, expect, expect_path
from ..refusals import warn
from ..storage import together, write_safetensors
from .base_layer import arrays_of, oriented
from .combine import truncated_svd
from .config import LoraConfig
from .files import WEIGHTS_FILE
from .model_adapter import PREFIX
from .names import check_known
from .state import tuner_of
from .targets import find_targets
from .types import Array, StrPath

Converted = tuple[LoraConfig, dict[str, Tensor]]


def nearest_lora(delta: Tensor | Array, rank: float) -> tuple[Array, Array]:
    """(A (r, in), B (out, r)) with B A nearest to ΔW (out, in), in float32 or better.

    rank: r, from 1 to min(out, in), or a float in (0, 1]: the part of Σ σ_i² that the r largest have at least.
    """
    check_rank(rank)
    array: Array = delta.data if isinstance(delta, Tensor) else delta
    if array.ndim != 2:
        raise ValueError(f"delta must be a matrix (out, in), got shape {array.shape}")
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    most = min(array.shape)
    A, B = truncated_svd(array, most)
    r = int(rank) if isinstance(rank, numbers.Integral) else _rank_for(array_module(B).linalg.norm(B, axis=0), rank)
    if r > most:
        raise ValueError(f"rank={r} is more than a layer of shape {array.shape} has: at most {most}")
    return A[:r].copy(), B[:, :r].copy()


def check_rank(rank: Any) -> None:
    """ValueError or TypeError unless it is a rank, or a part of the energy."""
    if isinstance(rank, bool) or not isinstance(rank, numbers.Real):
        raise TypeError(f"rank should be a whole number, or a float in (0, 1], got {rank!r:.60}")
    if isinstance(rank, numbers.Integral) and int(rank) < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if not isinstance(rank, numbers.Integral) and not 0 < float(rank) <= 1:
        raise ValueError(f"a rank that is a float is a part of the energy, in (0, 1]; got {rank}")


def _rank_for(singular_values: Array, part: float) -> int:
    """The smallest number of the first of them that have this part of the sum of squares; counted in float32, as in
    PEFT, where what rounding left behind the true rank adds nothing."""
    sums = np.cumsum(np.square(np.array(singular_values.tolist(), np.float32)))
    return int(np.searchsorted(sums, np.float32(part) * sums[-1])) + 1


def convert_to_lora(
    model: nn.Module, rank: float, adapter_name: str = "default", progressbar: bool = False, compile_kwargs: Any = None
) -> Converted:
    """(config, {name in PEFT's files: Tensor}) of the LoRA adapter that is nearest to one of any kind.

    ΔW is what merging adds to each layer's weight: so DoRA and kinds that multiply W are converted too, which PEFT
    leaves out or takes for s·B A. modules_to_save come along. progressbar, compile_kwargs: PEFT's, of no effect.
    TypeError if the model has no such adapter beside linear layers; ValueError for a rank that a layer does not have,
    and for an adapter that trains biases, or changes them as (IA)³ does.
    """
    check_rank(rank)
    try:
        tuner = tuner_of(model)
    except ValueError as error:
        raise TypeError(f"there is nothing to convert to LoRA: {error}") from None
    check_known(adapter_name, tuner.peft_config)
    config, own = tuner.peft_config[adapter_name], tuner.adapter(adapter_name)
    if tuner.merged:
        raise RuntimeError(f"{', '.join(tuner.merged)} is merged into the weights: call unmerge_adapter() first")
    if config.bias != "none" or getattr(config, "lora_bias", False):
        raise ValueError(
            f"{adapter_name} trains biases, which LoRA's A and B cannot hold: bias='none' and no lora_bias"
        )
    if all(adapter.plain and adapter.initial is None for adapter in own.adapters.values()):
        warn(f"{adapter_name} is plain LoRA already: it is only brought to another rank")
    deltas = {target: _delta(target, tuner.adapted[target], adapter) for target, adapter in own.adapters.items()}
    if not deltas:
        raise TypeError(f"{adapter_name} is beside no layer: there is nothing to convert to LoRA")
    made, arrays = _as_lora(deltas, rank, config)
    for name, module in own.copies.items():
        arrays |= {f"{PREFIX}{name}.{key}": p.data for key, p in module.named_parameters()}
    made.modules_to_save = config.modules_to_save
    return made, {name: Tensor(array) for name, array in arrays.items()}


def _delta(target, layer, adapter):
    """What merging the adapter alone would add to the weight of its layer, (out, in)."""
    base = layer.base_layer
    if isinstance(base, nn.Embedding) or adapter.brings_base:
        raise TypeError(f"{target} is no linear layer whose weight stays: only those can be converted to LoRA")
    if adapter.plain and adapter.initial is None:
        return adapter.delta_weight()
    weight, bias = arrays_of(base)
    exact = layer.oriented(weight).astype(np.float64)  # so that W + ΔW - W is ΔW
    original = exact if layer._original is None else layer.oriented(layer._original).astype(np.float64)
    merged, new_bias = adapter.merged(base, exact, bias)
    if bias is not None and (new_bias != bias).any():
        raise ValueError(f"the adapter changes the bias of {target}, which LoRA's A and B cannot hold")
    delta = merged - original
    return delta.astype(np.result_type(weight.dtype, np.float32))


def _as_lora(deltas: Mapping[str, Array], rank: float, like: Any = None) -> tuple[LoraConfig, dict[str, Array]]:
    """(config, {name in a file: array}) for these {layer's name: ΔW}."""
    made = {}
    for target, delta in deltas.items():
        try:
            made[target] = nearest_lora(delta, rank)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None
    ranks = {target: len(A) for target, (A, _) in made.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(target): r for target, r in ranks.items() if r != usual}
    config = LoraConfig(
        r=usual, lora_alpha=usual, target_modules=list(ranks), rank_pattern=others, alpha_pattern=dict(others)
    )
    for name in ("base_model_name_or_path", "task_type", "fan_in_fan_out", "layer_replication"):
        setattr(config, name, getattr(like, name, getattr(config, name)))
    arrays = {
        f"{PREFIX}{t}.lora_{letter}.weight": X for t, AB in made.items() for letter, X in zip("AB", AB, strict=True)
    }
    return config, arrays


def extract_lora(
    base: nn.Module, tuned: nn.Module, rank: float, target_modules: list[str] | str = "all-linear"
) -> Converted:
    """(config, {name in PEFT's files: Tensor}) of the LoRA adapter on `base` that is nearest to a tuned model.

    ΔW = W_tuned - W_base for each of the linear layers that `target_modules` names and that have changed. Other weights
    that have changed, such as norms, are not in the adapter, and a warning names them. ValueError if the models have
    other parameters or shapes, or if no layer has changed.
    """
    check_rank(rank)
    for name, model in (("base", base), ("tuned", tuned)):
        expect(model, nn.Module, name, A_MODEL)
    changed = _changed(dict(base.named_parameters()), dict(tuned.named_parameters()))
    deltas = {}
    for target in find_targets(base, target_modules):
        if f"{target}.weight" in changed:
            layer = base.get_submodule(target)
            old, new = (
                weight.astype(np.result_type(weight.dtype, np.float32)) for weight in changed[f"{target}.weight"]
            )
            deltas[target] = oriented(layer, new - old)
    left = sorted(changed.keys() - {f"{target}.weight" for target in deltas})
    if not deltas:
        raise ValueError(
            f"none of the layers of target_modules has changed; what has: {', '.join(left[:3]) or 'nothing'}"
        )
    if left:
        warn(f"{len(left)} other weights have changed, which the adapter does not have: {', '.join(left[:3])}")
    config, arrays = _as_lora(deltas, rank)
    config.base_model_name_or_path = getattr(getattr(base, "config", None), "name_or_path", None)
    config.fan_in_fan_out = any(base.get_submodule(target).fan_in_fan_out for target in deltas)
    return config, {name: Tensor(array) for name, array in arrays.items()}


def _changed(ours, theirs):
    """{name: (array before, array after)} of what differs between two {name: Parameter}."""
    odd = [n for n in {**ours, **theirs} if n not in ours or n not in theirs or ours[n].shape != theirs[n].shape]
    if odd:
        raise ValueError(f"the models do not have the same parameters: {', '.join(odd[:3])} differ in name or shape")
    pairs = {name: (p.data, theirs[name].data) for name, p in ours.items()}
    return {name: (old, new) for name, (old, new) in pairs.items() if old is not new and (old != new).any()}


def save_as_lora(
    path: StrPath,
    model: nn.Module,
    rank: float,
    adapter_name: str = "default",
    progressbar: bool = False,
    compile_kwargs: Any = None,
) -> None:
    """Write what `convert_to_lora` makes into a folder, from which `PeftModel.from_pretrained` loads it."""
    write_lora(path, *convert_to_lora(model, rank, adapter_name, progressbar, compile_kwargs))


def write_lora(path: StrPath, config: LoraConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Write an adapter that `convert_to_lora` or `extract_lora` made into a folder: both files, or neither."""
    directory = Path(expect_path(path, "path", "the path of a folder"))
    with together(directory):
        write_safetensors(directory / WEIGHTS_FILE, {name: tensor.data for name, tensor in state_dict.items()})
        dataclasses.replace(config, inference_mode=True).save_pretrained(directory)
