"""`add_weighted_adapter`: the mathematics of `combine.py`, on every layer of a model."""

import dataclasses
import math
import numbers
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .combine import SVD_KINDS, combine, combined_rank
from .config import LoraConfig
from .lora_model import LoraModel
from .model_adapter import PREFIX
from .types import Array
from .variants.embedding import EmbeddingAdapter
from .written import PLAIN_START


def combined(
    tuner: LoraModel,
    configs: Mapping[str, Any],
    adapters: Sequence[str],
    weights: Sequence[float],
    kind: str,
    options: Mapping[str, Any],
) -> tuple[LoraConfig, dict[str, Array]]:
    """(config, {name in a file: array}) of the combination of some of a model's adapters, by one of `combine.KINDS`.

    configs: {adapter: its config}. options: those of `combine.combine`. A layer that has only some of the adapters
    combines those. One adapter alone is only scaled, as in PEFT, whatever the kind; but an `svd_rank` with "svd" is
    heeded. Without one, the SVD kinds have in every layer the largest rank that the configs name, as in PEFT.
    ValueError if an adapter is more than plain LoRA, on linear layers and embeddings, or for the reasons of
    `combine.combine`. Those of a kind that `adds_up`, (IA)³, are added up.
    """
    if not adapters or len(adapters) != len(weights):
        raise ValueError(f"{len(adapters)} adapters and {len(weights)} weights: give each adapter a weight")
    if len(set(adapters)) != len(adapters):
        raise ValueError(f"an adapter is named twice: {', '.join(adapters)}")
    if not all(isinstance(w, numbers.Real) and math.isfinite(w) for w in weights):
        raise ValueError(f"weights must be finite numbers, not {', '.join(map(repr, weights))}")
    for adapter in adapters:
        if tuner.adapter(adapter).copies:
            raise ValueError(f"{adapter} trains modules whole (modules_to_save), which cannot be combined")
    found = {adapter: tuner.adapter(adapter).adapters for adapter in adapters}
    if all(adapter.adds_up for own in found.values() for adapter in own.values()):
        return _added_up(configs[adapters[0]], found, weights, kind)
    for own in found.values():
        _check_plain(own)
    if len(adapters) == 1 and not (kind == "svd" and options.get("svd_rank")):
        combined_rank(kind, [1])  # refuses an unknown kind
        kind = "linear"
    if kind in SVD_KINDS and options.get("svd_rank") is None:
        options = {**options, "svd_rank": max(r for a in adapters for r in _ranks_in(configs[a]))}
    made, arrays = {}, dict[str, Array]()
    for target, layer in tuner.layers():
        present = [(a, w) for a, w in zip(adapters, weights, strict=True) if a in layer.adapters]
        if present:
            made[target] = _combine_in(target, layer, present, kind, options)
            names = names_of_matrices(layer.adapters[present[0][0]])
            arrays |= {f"{PREFIX}{target}.{name}": X for name, X in zip(names, made[target], strict=True)}
    return _config(configs[adapters[0]], {target: len(A) for target, (A, _) in made.items()}), arrays


def _check_plain(own):
    for target, adapter in own.items():
        if adapter.initial is not None or not (adapter.plain or type(adapter) is EmbeddingAdapter):
            raise ValueError(f"only plain LoRA can be combined; {target} has something else")


def names_of_matrices(adapter: Any) -> list[str]:
    """The names of A and B in a file, behind the layer's."""
    return [name for X in adapter.matrices() for name, p in adapter.tensors().items() if p is X]


def _ranks_in(config):
    return [config.r, *config.rank_pattern.values()]


def _added_up(like, found, weights, kind):
    """(config, arrays) of Σ w · tensors of the {adapter: {layer: Adapter}}, for each layer of those that have it."""
    if kind not in ("svd", "linear"):  # the first is what stands for nothing said
        raise ValueError(f"{like.peft_type} adapters are added up: combination_type={kind!r} is for LoRA")
    layers, arrays = {}, {}
    for own, weight in zip(found.values(), weights, strict=True):
        for target, adapter in own.items():
            layers.setdefault(target, adapter)
            for key, array in adapter.saved_arrays().items():
                name = f"{PREFIX}{target}.{key}"
                if name in arrays and arrays[name].shape != array.shape:
                    raise ValueError(f"{name} is {arrays[name].shape} in one and {array.shape} in another: no sum")
                arrays[name] = arrays.get(name, 0) + array * float(weight)
    return like.united(layers), arrays


def _combine_in(target, layer, present, kind, options):
    """(A, B) of the combination in one layer; `present` lists (adapter, weight)."""
    found = [layer.adapters[a] for a, _ in present]
    svd_rank = options.get("svd_rank")
    combined_rank(kind, [adapter.r for adapter in found], svd_rank)  # refuses unequal ranks by name
    matrices = [adapter.matrices() for adapter in found]
    As, Bs = ([pair[i].data for pair in matrices] for i in (0, 1))
    return combine(kind, [w for _, w in present], [adapter.scaling for adapter in found], As, Bs, **options)


def _config(like, ranks):
    """A LoraConfig like the first adapter's for exactly these layers and ranks, with scaling 1."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    other = {re.escape(target): r for target, r in ranks.items() if r != usual}
    alpha = (lambda r: r**0.5) if like.use_rslora else (lambda r: r)
    return dataclasses.replace(
        like,
        r=usual,
        lora_alpha=alpha(usual),
        target_modules=list(ranks),
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        rank_pattern=other,
        alpha_pattern={target: alpha(r) for target, r in other.items()},
        **PLAIN_START,
        modules_to_save=None,
    )
