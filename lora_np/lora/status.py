"""What is adapted, how, and what is switched on: for people to read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .collapse import collapsed

if TYPE_CHECKING:
    from .peft_model import PeftModel


@dataclass(frozen=True)
class LayerStatus:
    """One adapted layer. `r`, `scaling` and `requires_grad` have a value for each adapter's name."""

    name: str
    module_type: str
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    available_adapters: list[str]
    r: dict[str, int | None]
    scaling: dict[str, float]
    requires_grad: dict[str, bool]


def layer_status(peft_model: "PeftModel") -> list[LayerStatus]:
    """The status of each adapted layer, in the model's order."""
    return [
        LayerStatus(
            name=name,
            module_type=type(layer.base_layer).__name__,
            enabled=not peft_model.base_model.is_disabled,
            active_adapters=list(layer.active_adapters),
            merged_adapters=list(layer.merged_adapters),
            available_adapters=list(layer.adapters),
            r={name: adapter.r for name, adapter in layer.adapters.items()},
            scaling={name: adapter.scaling for name, adapter in layer.adapters.items()},
            requires_grad={n: all(p.requires_grad for p in a.parameters()) for n, a in layer.adapters.items()},
        )
        for name, layer in peft_model.base_model.layers()
    ]


def format_status(peft_model: "PeftModel") -> str:
    """A table with a line for each adapter of each layer: rank, scaling, state. A long one has equal blocks once."""
    trainable, total = peft_model.get_nb_trainable_parameters()
    kind = type(peft_model.get_base_model()).__name__
    rows = collapsed([row for status in layer_status(peft_model) for row in _rows(status)])
    width = max((len(name) for name, _ in rows), default=5)
    titles = ("layer", f"{'kind':<10} {'adapter':<12} {'rank':>4} {'scaling':>8}  state")
    head = f"PeftModel of {kind}: {trainable:,d} of {total:,d} parameters are trained"
    return "\n".join([head, *[f"{name:<{width}}  {text}" for name, text in (titles, *rows)]])


def _rows(status):
    """(the layer's name, the rest of the line) for each adapter of a layer."""
    for adapter in status.available_adapters:
        rank, scaling = status.r[adapter], status.scaling[adapter]
        facts = f"{status.module_type:<10} {adapter:<12} {rank:>4} {scaling:>8.4g}"
        yield status.name, f"{facts}  {_state(status, adapter)}"


def _state(status, adapter):
    if adapter not in status.active_adapters:
        return "inactive"
    if not status.enabled:
        return "switched off"
    if adapter in status.merged_adapters:
        return "merged"
    return "active, trained" if status.requires_grad[adapter] else "active"
