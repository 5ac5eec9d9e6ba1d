"""Which kinds of adapters there are, and for which layers: three tables.

`variants/__init__.py` fills them for LoRA; the kinds of `family/` join when one is first asked for.
"""

import importlib
from typing import Any

from .adapter import Adapter, Target, dtype_beside
from .family import FAMILY
from .types import Config, Layer

KINDS: dict[str, tuple[Any, tuple[type[Adapter], ...]]] = {}  # {peft_type: (configuration, kinds, special ones first)}
SPECIAL = {  # {field of LoraConfig: (module in variants/, class of the kind)}, read when one is asked for
    "alora_invocation_tokens": ("alora", "ActivatedLora"),
    "use_bdlora": ("bdlora", "BlockDiagonal"),
    "use_qalora": ("qalora", "QaLora"),
    "kasa_config": ("kasa", "Kasa"),
    "arrow_config": ("arrow", "Arrow"),
    "velora_config": ("velora", "Velora"),
    "monteclora_config": ("monteclora", "MonteCarlo"),
}
WRAPPERS: dict[type, type] = {}  # {class of a layer: the AdaptedLayer that holds it}


def register(peft_type: str, config_class: type, *kinds: type[Adapter]) -> None:
    """Make a `peft_type` known: the class of its configurations, and its kinds of adapters, special ones first."""
    KINDS[peft_type] = config_class, kinds


def known(peft_type: str) -> tuple[Any, tuple[type[Adapter], ...]]:
    """(class of the configurations, kinds) of a peft_type. The file of a relative of LoRA is read now. KeyError."""
    if peft_type not in KINDS:
        module, *names = FAMILY[peft_type]
        found = importlib.import_module(f".family.{module}", __package__)
        register(peft_type, *(getattr(found, name) for name in names))
    return KINDS[peft_type]


def config_class(peft_type: Any, source: Any) -> Any:
    """The class of the configurations of this type. ValueError, in which `source` names the file, if it is unknown."""
    names = dict.fromkeys([*KINDS, *FAMILY])
    if not isinstance(peft_type, str) or peft_type not in names:
        raise ValueError(f"{source} is of a {peft_type} adapter; known here are {', '.join(names)}")
    return known(peft_type)[0]


def peft_type_of(adapter: Adapter) -> str:
    """The peft_type that an adapter's kind is of. Kinds that no table has are LoRA's, for one setting of its."""
    return next((name for name, (_, kinds) in KINDS.items() if isinstance(adapter, kinds)), "LORA")


def kind_of(config: Config, target: Target) -> type[Adapter]:
    """The kind of adapter that `config` puts beside a `Target`."""
    if target.kind or config.special is None:
        return target.kind or next(kind for kind in known(config.peft_type)[1] if kind.wanted(config, target))
    module, kind = SPECIAL[config.special]
    return getattr(importlib.import_module(f".variants.{module}", __package__), kind)


def make_adapter(config: Config, target: Target) -> Adapter:
    """A new adapter for a `Target`, on its layer's device and in its mode; float32, or float64 beside float64.

    ValueError if its kind cannot be beside that layer.
    """
    kind, layer = kind_of(config, target), target.layer
    kind.check(config, target)
    return kind(config, target).to(layer.device, dtype_beside(layer)).train(layer.training)


def is_adaptable(layer: Layer) -> bool:
    """Can an adapter be put beside a layer of this class?"""
    return isinstance(layer, tuple(WRAPPERS))


def wrapped(layer: Layer) -> Any:
    """A new `AdaptedLayer`, the one for this class of layers, that holds the layer."""
    return next(wrapper for kind, wrapper in WRAPPERS.items() if isinstance(layer, kind))(layer).train(layer.training)
