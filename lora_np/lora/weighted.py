"""`add_weighted_adapter`: the mathematics of `combine.py`, on every layer of a model."""

import dataclasses
import math
import numbers
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .combine import combine, combined_rank, kind_for_one

if TYPE_CHECKING:
    from .peft_model import PeftModel


def add_combined(
    peft_model: "PeftModel",
    adapters: Sequence[str],
    weights: Sequence[float],
    name: str,
    kind: str,
    options: Mapping[str, Any],
) -> None:
    """Add to `peft_model` the adapter `name`, the combination of some of its adapters, by one of `combine.KINDS`.

    options: those of `combine.combine`. A layer that has only some of the adapters combines those. Of a single adapter
    nothing is pruned. ValueError, with nothing changed, if an adapter is more than plain LoRA on linear layers, or for
    the reasons of `combine.combine`.
    """
    if not adapters or len(adapters) != len(weights):
        raise ValueError(f"{len(adapters)} adapters and {len(weights)} weights: give each adapter a weight")
    if len(set(adapters)) != len(adapters):
        raise ValueError(f"an adapter is named twice: {', '.join(adapters)}")
    if not all(isinstance(w, numbers.Real) and math.isfinite(w) for w in weights):
        raise ValueError(f"weights must be finite numbers, not {', '.join(map(repr, weights))}")
    for adapter in adapters:
        if peft_model.base_model.adapter(adapter).copies:
            raise ValueError(f"{adapter} trains modules whole (modules_to_save), which cannot be combined")
    kind = kind_for_one(kind) if len(adapters) == 1 else kind
    made = {}
    for target, layer in peft_model.base_model.layers():
        present = [(a, w) for a, w in zip(adapters, weights, strict=True) if a in layer.adapters]
        if present:
            made[target] = _combine_in(target, layer, present, kind, options)
    peft_model.add_adapter(name, _config(peft_model, adapters[0], {t: len(A) for t, (A, _) in made.items()}))
    for target, (A, B) in made.items():
        matrices = peft_model.base_model.adapted[target].matrices(name)
        for p, array in zip(matrices, (A, B), strict=True):
            p.data = array.astype(p.dtype, copy=False)


def _combine_in(target, layer, present, kind, options):
    """(A, B) of the combination in one layer; `present` lists (adapter, weight)."""
    found = [layer.adapters[a] for a, _ in present]
    if not all(adapter.plain and adapter.initial is None for adapter in found):
        raise ValueError(f"only plain LoRA on linear layers can be combined; {target} has something else")
    svd_rank = options.get("svd_rank")
    combined_rank(kind, [adapter.r for adapter in found], svd_rank)  # refuses unequal ranks by name
    matrices = [adapter.matrices() for adapter in found]
    As, Bs = ([pair[i].data for pair in matrices] for i in (0, 1))
    return combine(kind, [w for _, w in present], [adapter.scaling for adapter in found], As, Bs, **options)


def _config(peft_model, first, ranks):
    """A LoraConfig like the first adapter's for exactly these layers and ranks, with scaling 1."""
    like = peft_model.peft_config[first]
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
        init_lora_weights=True,
        modules_to_save=None,
    )
