"""What is adapted, how, and what is switched on: PEFT's two reports, and a table for people to read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import nn
from ..expect import A_MODEL, expect
from .call import this_call
from .collapse import collapsed
from .forwarding import Tuner
from .kinds import peft_type_of
from .layer import AdaptedLayer
from .saved_modules import ModulesToSave
from .tied_heads import TiedHead
from .variants.tokens import TokenAdapter

if TYPE_CHECKING:
    from .peft_model import PeftModel

IRREGULAR = "irregular"  # PEFT's word for what is not the same everywhere


@dataclass(frozen=True)
class TunerLayerStatus:
    """One adapted layer or module to save. Those that are dicts have a value for each adapter's name.

    PEFT's fields, and `r` and `scaling`, which a module to save has not.
    """

    name: str
    module_type: str
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, bool | str]
    available_adapters: list[str]
    devices: dict[str, list[str]]
    quantization_backend: str | None
    r: dict[str, int | None]
    scaling: dict[str, float]


@dataclass(frozen=True)
class TunerModelStatus:
    """A model with adapters, PEFT's fields. What is not the same in all layers is "irregular"."""

    base_model_type: str
    adapter_model_type: str
    peft_types: dict[str, str]
    trainable_params: int
    total_params: int
    num_adapter_layers: int
    enabled: bool | str
    active_adapters: list[str] | str
    merged_adapters: list[str] | str
    requires_grad: dict[str, bool | str]
    available_adapters: list[str]
    devices: dict[str, list[str]]
    quantization_backend: str | None


def get_layer_status(model: nn.Module) -> list[TunerLayerStatus]:
    """The status of each adapted layer and module to save, in the model's order. ValueError if there is none.

    model: a PeftModel, its `base_model`, or a model that `inject_adapter_in_model` gave adapters.
    """
    expect(model, nn.Module, "model", A_MODEL)
    base = getattr(model, "base_model", model)
    wrappers = [(n, m) for n, m in base.named_modules() if isinstance(m, (AdaptedLayer, ModulesToSave, TiedHead))]
    if not wrappers:
        raise ValueError(f"this {type(model).__name__} has no adapters")
    active = base.active_adapters if isinstance(base, Tuner) else None
    return [_of_module(n, m) if isinstance(m, ModulesToSave) else _of_layer(n, m, active) for n, m in wrappers]


def _of_layer(name, layer, active=None):
    """active: the model's active adapters; PEFT lists also those that the layer does not have.

    A head that follows an embedding has the embedding's status.
    """
    layer = layer.source if isinstance(layer, TiedHead) else layer
    kind = "Embedding" if isinstance(layer.base_layer, nn.Embedding) else "Linear"
    four_bits = isinstance(layer.base_layer, nn.FourBitLayer)
    first = next(iter(layer.adapters.values()), None)
    module_type = f"{peft_type_of(first).lower() if first else 'lora'}.{kind}"
    return TunerLayerStatus(
        name=f"{name}.token_adapter" if isinstance(first, TokenAdapter) else name,
        module_type=f"{(first and first.reported) or module_type}{'4bit' if four_bits else ''}",
        active_adapters=list(layer.active_adapters if active is None else active),
        merged_adapters=list(layer.merged_adapters),
        quantization_backend="nf4 4bit" if four_bits else None,
        r={name: adapter.r for name, adapter in layer.adapters.items()},
        scaling={name: adapter.scaling for name, adapter in layer.adapters.items()},
        **_of_parts(layer, layer.adapters),
    )


def _of_module(name, module):
    kept = {"active_adapters": [name for name in module.active_adapters if name in module.modules_to_save]}
    kept |= {"merged_adapters": [], "quantization_backend": None, "r": {}, "scaling": {}}
    return TunerLayerStatus(name, "ModulesToSaveWrapper", **kept, **_of_parts(module, module.copies()))


def _of_parts(wrapper, parts):
    """What is said in the same way of a layer's adapters and of a module's copies."""
    return {
        "enabled": not this_call(wrapper.owner).disabled,
        "requires_grad": {n: _all([p.requires_grad for p in _parameters(part)]) for n, part in parts.items()},
        "available_adapters": sorted(parts),
        "devices": {name: [str(part.device).partition(":")[0]] for name, part in parts.items()},
    }


def _parameters(part):
    """The Parameters of an adapter or a copy; of one that follows another and has none of its own, the other's."""
    return list(part.parameters()) or [p for other in getattr(part, "followed", ()) for p in other.parameters()]


def _all(values: Iterable[Any]) -> Any:
    """The one value that all have, or "irregular"."""
    values = list(values)
    return values[0] if values and all(value == values[0] for value in values) else IRREGULAR


def get_model_status(model: nn.Module) -> TunerModelStatus:
    """The status of the whole model, from that of its layers; see `get_layer_status` for the models."""
    layers = get_layer_status(model)
    tuner: Any = getattr(model, "base_model", model)
    is_tuner = isinstance(tuner, Tuner)
    parameters = list(model.parameters())
    names = sorted({name for layer in layers for name in layer.available_adapters})
    merged = sorted({name for layer in layers for name in layer.merged_adapters})
    half = any(name in merged for s in layers for name in set(s.available_adapters) - set(s.merged_adapters))
    have = {name: [layer for layer in layers if name in layer.available_adapters] for name in names}
    return TunerModelStatus(
        base_model_type=type(tuner.model if is_tuner else model).__name__,
        adapter_model_type=_model_type(tuner) if is_tuner else "None",
        peft_types={name: str(config.peft_type) for name, config in tuner.peft_config.items()} if is_tuner else {},
        trainable_params=sum(p.size for p in parameters if p.requires_grad),
        total_params=sum(p.size for p in parameters),
        num_adapter_layers=len(layers),
        enabled=_all(layer.enabled for layer in layers),
        active_adapters=_all(layer.active_adapters for layer in layers),
        merged_adapters=IRREGULAR if half else merged,
        requires_grad={name: _all(layer.requires_grad[name] for layer in own) for name, own in have.items()},
        available_adapters=names,
        devices={name: sorted({d for layer in own for d in layer.devices[name]}) for name, own in have.items()},
        quantization_backend=_all(layer.quantization_backend for layer in layers),
    )


def _model_type(tuner):
    """What PEFT calls a model with adapters of these kinds."""
    kinds = {type(config).__name__.removesuffix("Config") for config in tuner.peft_config.values()}
    return f"{'Mixed' if len(kinds) > 1 else next(iter(kinds), 'Lora')}Model"


def format_status(peft_model: "PeftModel") -> str:
    """A table with a line for each adapter of each layer: rank, scaling, state. A long one has equal blocks once."""
    trainable, total = peft_model.get_nb_trainable_parameters()
    kind = type(peft_model.get_base_model()).__name__
    rows = collapsed([row for name, layer in peft_model.base_model.layers() for row in _rows(name, layer)])
    width = max((len(name) for name, _ in rows), default=5)
    titles = ("layer", f"{'kind':<10} {'adapter':<12} {'rank':>4} {'scaling':>8}  state")
    head = f"PeftModel of {kind}: {trainable:,d} of {total:,d} parameters are trained"
    return "\n".join([head, *[f"{name:<{width}}  {text}" for name, text in (titles, *rows)]])


def _rows(name, layer):
    """(the layer's name, the rest of the line) for each adapter of a layer."""
    status = _of_layer(name, layer)
    for adapter in layer.adapters:
        rank, scaling = status.r[adapter] or "-", status.scaling[adapter]
        facts = f"{type(layer.base_layer).__name__:<10} {adapter:<12} {rank:>4} {scaling:>8.4g}"
        yield name, f"{facts}  {_state(status, adapter)}"


def _state(status, adapter):
    if adapter not in status.active_adapters:
        return "inactive"
    if not status.enabled:
        return "switched off"
    if adapter in status.merged_adapters:
        return "merged"
    return "active, trained" if status.requires_grad[adapter] is True else "active"
