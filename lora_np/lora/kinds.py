"""Which kinds of adapters there are, and for which layers: two tables that `variants/__init__.py` fills."""

from .adapter import dtype_beside

KINDS = {}  # {peft_type: (class of its configuration, kinds of adapters, the most special first)}
WRAPPERS = {}  # {class of a layer: the AdaptedLayer that holds it}


def register(peft_type, config_class, *kinds):
    """Make a `peft_type` known: how it is configured, and what it puts beside a layer."""
    KINDS[peft_type] = config_class, kinds


def config_class(peft_type, source):
    """The class of configurations of this type; `source` names the file in the ValueError for one not known."""
    if not isinstance(peft_type, str) or peft_type not in KINDS:
        raise ValueError(f"{source} is of a {peft_type} adapter; known here are {', '.join(KINDS)}")
    return KINDS[peft_type][0]


def kind_of(config, target):
    """The kind of adapter that `config` puts beside a `Target`."""
    return next(kind for kind in KINDS[config.peft_type][1] if kind.wanted(config, target))


def make_adapter(config, target):
    """A new adapter for a `Target`, on its layer's device and in its mode; float32, or float64 beside float64.

    ValueError if that kind cannot be there.
    """
    kind, layer = kind_of(config, target), target.layer
    kind.check(config, target)
    return kind(config, target).to(layer.device, dtype_beside(layer)).train(layer.training)


def is_adaptable(layer):
    """Can an adapter be put beside a layer of this class?"""
    return isinstance(layer, tuple(WRAPPERS))


def wrapped(layer):
    """The layer in the `AdaptedLayer` for its class."""
    return next(wrapper for kind, wrapper in WRAPPERS.items() if isinstance(layer, kind))(layer).train(layer.training)
