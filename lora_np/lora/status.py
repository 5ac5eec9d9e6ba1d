"""What is adapted, how, and what is switched on: for people to read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """A table with a line for each adapter of each layer: rank, scaling, state."""
    status = layer_status(peft_model)
    width = max((len(s.name) for s in status), default=5)
    trainable, total = peft_model.get_nb_trainable_parameters()
    kind = type(peft_model.get_base_model()).__name__
    lines = [f"PeftModel of {kind}: {trainable:,d} of {total:,d} parameters are trained"]
    lines.append(f"{'layer':<{width}}  {'kind':<10} {'adapter':<12} {'rank':>4} {'scaling':>8}  state")
    for s in status:
        for adapter in s.available_adapters:
            rank, scaling = s.r[adapter], s.scaling[adapter]
            head = f"{s.name:<{width}}  {s.module_type:<10} {adapter:<12} {rank:>4} {scaling:>8.4g}"
            lines.append(f"{head}  {_state(s, adapter)}")
    return "\n".join(lines)


def _state(status, adapter):
    if adapter not in status.active_adapters:
        return "inactive"
    if not status.enabled:
        return "switched off"
    if adapter in status.merged_adapters:
        return "merged"
    return "active, trained" if status.requires_grad[adapter] else "active"
