"""One adapter on a whole model. A new one is made and checked before anything of the model is changed.

Adding an adapter is then putting finished parts in their places; loading one is filling them first.
"""

import warnings
from dataclasses import dataclass, field

from .. import nn
from ..autograd import backend
from .adapter import Target
from .base_layer import shared_weights
from .init import check_rank
from .kinds import kind_of, make_adapter
from .layer import AdaptedLayer
from .saved_modules import copied
from .targets import biases_of, own_modules, saved_modules_of, targets_of

PREFIX = "base_model.model."  # of the names in PEFT's files; what layers share is one floor up


@dataclass
class ModelAdapter:
    """The parts of an adapter, by the dotted names of the model's own modules.

    adapters  {layer: Adapter}
    copies    {module: its trained copy}, for `modules_to_save`
    shared    {name: Parameter or Buffer} of what the adapters have in common
    biases    {name: Parameter} of the model's own biases that are trained too
    """

    adapters: dict
    copies: dict = field(default_factory=dict)
    shared: dict = field(default_factory=dict)
    biases: dict = field(default_factory=dict)

    def tensors(self):
        """{name in the file: Parameter or Buffer}: everything that is saved and loaded."""
        found = {f"{PREFIX}{name}.{key}": p for name, a in self.adapters.items() for key, p in a.tensors().items()}
        for name, module in self.copies.items():
            found |= {f"{PREFIX}{name}.{key}": p for key, p in module.named_parameters()}
        found |= {f"base_model.{name}": tensor for name, tensor in self.shared.items()}
        return found | {PREFIX + name: p for name, p in self.biases.items()}

    def saved_arrays(self):
        """{name in the file: array}."""
        arrays = {name: tensor.data for name, tensor in self.tensors().items()}
        for name, adapter in self.adapters.items():
            arrays |= {f"{PREFIX}{name}.{key}": array for key, array in adapter.saved_arrays().items()}
        return arrays

    def fill(self, arrays):
        """Copy arrays {name in the file: array} into the tensors of these names, in their dtype, once all are made."""
        tensors = self.tensors()
        new = {name: backend.to_device(array, tensors[name].device) for name, array in arrays.items()}
        new = {name: backend.array_module(a).array(a, dtype=tensors[name].dtype, copy=True) for name, a in new.items()}
        for name, array in new.items():
            tensors[name].data = array


def new_adapter(model, config):
    """The `ModelAdapter` that `config` means on a model, which may have adapters already; it is in no layer yet.

    ValueError if it cannot be, with nothing changed but a wrong `fan_in_fan_out` of the config, of which there is a
    warning.
    """
    modules = own_modules(model)
    parts, saved = targets_of(model, config, modules), saved_modules_of(modules, config)
    _check_apart(parts, saved)
    targets = [Target(name, modules[name], *config.rank_and_alpha(name), parts[name]) for name in parts]
    kinds = [kind_of(config, target) for target in targets]
    for kind, target in zip(kinds, targets, strict=True):
        kind.check(config, target)
        _check_company(model.get_submodule(target.name), config)
    if config.changes_base:
        _check_change(model, config, targets)
    shared = {}
    for kind in dict.fromkeys(kinds):
        shared |= kind.shared(config, targets)
    for tensor in shared.values():
        tensor.data = backend.to_device(tensor.data, targets[0].layer.device)
    adapters = {target.name: make_adapter(config, target._replace(shared=shared)) for target in targets}
    for adapter in adapters.values():
        adapter.requires_grad_(False)
    copies = {name: copied(modules[name]).requires_grad_(False) for name in saved}
    _mend_orientation(config, [target.layer for target in targets])
    return ModelAdapter(adapters, copies, shared, biases_of(modules, config.bias, adapters, saved))


def _check_apart(targets, saved):
    """A module trained whole has no use for an adapter inside it."""
    for name in saved:
        inside = [target for target in targets if f"{target}.".startswith(f"{name}.")]
        if inside:
            raise ValueError(f"{inside[0]} is adapted, and modules_to_save trains {name} whole: choose one")


def _check_company(layer, config):
    """PiSSA and OLoRA take part of W out of the base: another adapter beside them would mean something else."""
    others = layer.adapters.values() if isinstance(layer, AdaptedLayer) else ()
    if others and (config.changes_base or any(adapter.initial is not None for adapter in others)):
        raise ValueError(
            "an adapter that starts by taking part of the weight out of it (PiSSA, OLoRA) must be alone on its "
            "layers; saved with as_plain_lora=True it can be loaded beside others"
        )


def _check_change(model, config, targets):
    """Refuse to take a part out of a weight that has none such, or that must stay as it is."""
    start, shared = f"init_lora_weights={config.init_lora_weights!r}", shared_weights(model)
    for target in targets:
        if isinstance(target.layer, nn.Linear4bit):
            raise ValueError(f"{start} would change a 4-bit weight")
        if id(target.layer.weight) in shared:
            raise ValueError(f"{start} would change a weight that {target.name} shares with another layer")
        check_rank(config.init_lora_weights, (target.layer.out_features, target.layer.in_features), target.r)


def _mend_orientation(config, layers):
    """`fan_in_fan_out` is the layers' own business; a config that says otherwise is put right, and the user told."""
    linear = next((layer for layer in layers if not isinstance(layer, nn.Embedding)), None)
    if linear is not None and config.fan_in_fan_out != linear.fan_in_fan_out:
        kind = type(linear).__name__
        warnings.warn(f"fan_in_fan_out set to {linear.fan_in_fan_out}, as {kind} layers need it", stacklevel=5)
        config.fan_in_fan_out = linear.fan_in_fan_out
