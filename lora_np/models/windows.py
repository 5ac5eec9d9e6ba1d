"""Which layers see the whole text and which the nearest tokens only, as `layer_types` of a config.json says it."""

from collections.abc import Callable
from typing import Any

from ..storage.fields import short

FULL, SLIDING = "full_attention", "sliding_attention"


def settle_layer_types(config: Any, slides: Callable[[int], bool]) -> None:
    """Check the config's layer_types; where it gives none, they are made: those sliding for which `slides(layer)`.

    ValueError if they are not one of the two kinds for each layer, or if a layer slides and no sliding_window is given.
    """
    depth = config.num_hidden_layers
    if config.layer_types is None:
        config.layer_types = [SLIDING if slides(layer) else FULL for layer in range(depth)]
    if unknown := [kind for kind in config.layer_types if kind not in (FULL, SLIDING)]:
        raise ValueError(f"layer_types are {FULL!r} and {SLIDING!r}; {short(unknown[0])} is not supported")
    if len(config.layer_types) != depth:
        raise ValueError(f"layer_types has {len(config.layer_types)} entries for num_hidden_layers = {depth}")
    if SLIDING in config.layer_types and config.sliding_window is None:
        layer = config.layer_types.index(SLIDING)
        raise ValueError(f"layer_types[{layer}] is {SLIDING!r}, but no sliding_window says how many tokens it sees")


def window_of(config: Any, layer: int) -> int | None:
    """How many keys a query sees in this layer; None for all."""
    return config.sliding_window if config.layer_types[layer] == SLIDING else None
