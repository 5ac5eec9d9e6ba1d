"""What a pass over data found for a layer, kept with it until an adapter is made of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..types import Layer

PREPARED = ("corda", "lora_ga")  # values of `init_lora_weights` that begin with such a pass


def note(layers: Mapping[str, Layer], start: str, found: Mapping[str, Any]) -> None:
    """Keep with each layer what was found for a start, until an adapter is made of it."""
    for name, layer in layers.items():
        layer.prepared = {**getattr(layer, "prepared", {}), start: found[name]}


def noted(layer: Layer, start: str) -> Any:
    """What is kept with a layer for this start; None if nothing is."""
    return vars(layer).get("prepared", {}).get(start)


def forget(layers: Iterable[Layer]) -> None:
    """Drop what is kept with these layers: an adapter has been made of it."""
    for layer in layers:
        if "prepared" in vars(layer):
            del layer.prepared
