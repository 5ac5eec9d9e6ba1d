"""An adapted layer beside others that read the same input: what `nn.beside` needs to know of it."""

from collections.abc import Sequence
from typing import Any

from ..nn.beside import PARTS, TOGETHER, part_of
from .call import this_call
from .layer import LoraAdapter, LoraLinear


def with_adapter(layer: LoraLinear) -> Any:
    """(weight, bias, A, B, scaling); None where other than one plain adapter without dropout takes part."""
    call = this_call(layer.owner)
    if call.disabled or call.rows is not None:
        return None
    names = [] if layer.merged_adapters else [name for name in layer.active_adapters if name in layer.adapters]
    plain = part_of(layer.base_layer)
    if plain is None or not names:
        return plain
    adapter: Any = layer.adapters[names[0]]
    dropout = adapter.lora_dropout if type(adapter) is LoraAdapter else None
    if len(names) > 1 or dropout is None or (dropout.p and dropout.training):
        return None
    return *plain[:2], *adapter.matrices(), adapter.scaling


def in_rows(layers: Sequence[LoraLinear], x: Any, then: Any) -> Any:
    """then(the results of these layers) where rows have adapters of their own; None where they have none, or others."""
    calls = [this_call(layer.owner) for layer in layers]
    rows = calls[0].rows
    if rows is None or any(call.disabled or call.rows is not rows for call in calls):
        return None
    return None if any("forward" in vars(layer) for layer in layers) else rows.beside(list(layers), x, then)


PARTS[LoraLinear] = with_adapter
TOGETHER[LoraLinear] = in_rows
