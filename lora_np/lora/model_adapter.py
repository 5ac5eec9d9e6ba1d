"""One adapter on a whole model. A new one is made and checked before anything of the model is changed.

Adding an adapter is then putting finished parts in their places; loading one is filling them first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .. import nn
from ..autograd import Tensor
from ..autograd.devices import array_module, to_device
from ..expect import expect
from ..refusals import warn
from .adapter import Adapter, Target, flattened
from .base_layer import shared_weights
from .init import check_start
from .kinds import kind_of, make_adapter
from .layer import AdaptedLayer
from .peft_config import PeftConfig
from .replication import replicated, take_over
from .saved_modules import ModulesToSave, copied
from .targets import (
    HEADS,
    biases_of,
    own_modules,
    saved_modules_of,
    targets_of,
    tied_copies,
    tied_targets,
    train_heads,
    warn_of_unused,
)
from .tied_heads import ONE_KIND, TiedHead, check_rows
from .types import Array
from .variants.parameter import OnParameter, parameter_targets
from .variants.tied import TiedLora
from .variants.tokens import TokenAdapter, token_targets

A_CONFIG = "a config, such as LoraConfig(r=8, target_modules=[...])"
BASE_WEIGHT = "base_layer.weight"  # behind a layer's name: what PEFT's files have of the base
PREFIX = "base_model.model."  # of names in PEFT's files; those of what layers share begin with "base_model." alone


@dataclass
class ModelAdapter:
    """All that an adapter is, by the dotted names of the model's own modules.

    adapters  {layer: Adapter}
    copies    {module: its trained copy}, for `modules_to_save`
    shared    {name: Parameter, Buffer or Module} of what the adapters of all layers have in common
    biases    {name: Parameter} of the model's own biases that are trained too
    bases     {name: Parameter} of the model's own weights that the adapter's file has others for
    incoming  {name in the file: array} for `tensors()`, put into them when the adapter is attached to the model: some
              are the model's own, which stay as they are until then
    config    of a new one: what it says of the model's blocks is done then, too
    """

    adapters: dict[str, Adapter]
    copies: dict[str, nn.Module] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    biases: dict[str, nn.Parameter] = field(default_factory=dict)
    bases: dict[str, nn.Parameter] = field(default_factory=dict)
    incoming: dict[str, Array] = field(default_factory=dict)
    config: PeftConfig | None = None

    def enter(self, model: nn.Module) -> None:
        """Make the model ready for this one, and this one complete. An interruption is the caller's to undo."""
        if self.config is not None and self.config.layer_replication:
            take_over(model, self.config)
        self.fill()

    def tensors(self) -> dict[str, Tensor]:
        """{name in the file: Parameter or Buffer}: everything that is saved and loaded."""
        found: dict[str, Tensor] = {}
        for name, adapter in self.adapters.items():
            found |= {f"{PREFIX}{name}.{key}": p for key, p in adapter.tensors().items()}
        return found | self._beside_layers()

    def _beside_layers(self):
        """Those of `tensors()` that are no layer's adapter's."""
        found = {}
        for name, module in self.copies.items():
            found |= {f"{PREFIX}{name}.{key}": p for key, p in module.named_parameters()}
        found |= {f"base_model.{name}": tensor for name, tensor in flattened(self.shared).items()}
        found |= {PREFIX + name: p for name, p in {**self.biases, **self.bases}.items()}
        return found

    def bringing(self, bases: Mapping[str, nn.Parameter]) -> Self:
        """This one, whose file has other numbers for these {name: Parameter} of the model's weights."""
        self.bases = dict(bases)
        for name in bases:
            self.adapters[name.removesuffix(f".{BASE_WEIGHT}")].brings_base = True
        return self

    def saved_arrays(self) -> dict[str, Array]:
        """{name in the file: array}."""
        arrays: dict[str, Array] = {}
        for name, adapter in self.adapters.items():
            arrays |= {f"{PREFIX}{name}.{key}": array for key, array in adapter.saved_arrays().items()}
        return arrays | {name: tensor.data for name, tensor in self._beside_layers().items()}

    def read(self, arrays: Mapping[str, Array], source: Any) -> dict[str, Array]:
        """The {name: array} of a file, in the form of `tensors()`. ValueError, with the `source`, if they are wrong."""
        found = dict(arrays)
        for name, adapter in self.adapters.items():
            try:
                adapter.read(found, f"{PREFIX}{name}.")
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
        return found

    def fill(self) -> None:
        """Copy the arrays of `incoming` into the tensors of these names, on their devices and in their dtypes.

        All copies are made before the first tensor changes. What interrupts this must put them back: the model's
        `attach` does.
        """
        if not self.incoming:
            return
        tensors = self.tensors()
        new = {name: to_device(array, tensors[name].device) for name, array in self.incoming.items()}
        new = {name: array_module(a).array(a, dtype=tensors[name].dtype, copy=True) for name, a in new.items()}
        for name, array in new.items():
            tensors[name].data = array
        self.incoming = {}


def new_adapter(
    model: nn.Module, config: PeftConfig, beside: tuple[Iterable[str], Iterable[str]] = ((), ())
) -> ModelAdapter:
    """The `ModelAdapter` that `config` means on a model, which may have adapters already; it is in no layer yet.

    beside: names of the layers that have adapters already, and of the modules that those train whole.
    The model does not change. A wrong `fan_in_fan_out` of the config is put right, with a warning. ValueError if there
    cannot be such an adapter.
    """
    expect(config, PeftConfig, "peft_config", A_CONFIG)
    model = replicated(model, config)
    modules = own_modules(model)
    config.settle(model)
    if config.task_type in HEADS:
        train_heads(config, modules)
    wanted, saved = targets_of(model, config, modules), saved_modules_of(modules, config)
    tokens = token_targets(model, config, modules) if config.trainable_token_indices else {}
    parameters = parameter_targets(config, modules, wanted) if config.target_parameters else []
    _check_apart([*wanted, *tokens, *parameters, *beside[0]], [*saved, *beside[1]])
    targets = [Target(name, modules[name], *config.rank_and_alpha(name), wanted[name]) for name in wanted]
    targets += [Target(n, modules[n], len(rows), None, tokens=rows, kind=TokenAdapter) for n, rows in tokens.items()]
    targets += [Target(n, modules[n], *config.rank_and_alpha(f"{n}.weight"), kind=OnParameter) for n in parameters]
    if config.ensure_weight_tying:
        targets = _following(targets, tied_targets(config, modules))
    if tokens or saved:
        check_rows(model, modules, tokens, wanted, saved)
    kinds = [kind_of(config, target) for target in targets]
    for kind, target in zip(kinds, targets, strict=True):
        kind.check(config, target)
        changes = config.changes_base and not isinstance(target.layer, nn.Embedding)  # an embedding is left whole
        _check_others(model.get_submodule(target.name), changes, target)
    if config.changes_base:
        _check_weights(model, config, [target for target in targets if not isinstance(target.layer, nn.Embedding)])
    shared: dict[str, Any] = {}
    for kind in dict.fromkeys(kinds):
        shared |= kind.shared(config, targets)
    for tensor in flattened(shared).values():
        tensor.data = to_device(tensor.data, targets[0].layer.device)
    made = [make_adapter(config, t._replace(shared=shared, kind=kind)) for t, kind in zip(targets, kinds, strict=True)]
    adapters = dict(zip((target.name for target in targets), made, strict=True))
    for adapter in adapters.values():
        adapter.requires_grad_(False)
        if isinstance(adapter, TiedLora):
            adapter.followed = (adapters[adapter.follows],)
    copies = {name: copied(modules[name]).requires_grad_(False) for name in saved}
    for head, embedding in tied_copies(config, modules).items() if config.ensure_weight_tying else ():
        copies[head].weight = copies[embedding].weight
    _correct_orientation(config, [modules[name] for name in wanted], parameters)
    if not nn.is_weightless():
        warn_of_unused(config, modules, [*wanted, *(f"{name}.weight" for name in parameters)])
    biases = biases_of(modules, config.bias, adapters, saved)
    return ModelAdapter(adapters, copies, shared, biases, config=config)


def targeted(adapters: Mapping[str, Adapter]) -> list[str]:
    """Those of {layer's name: Adapter} that target_modules means; target_parameters and trainable_token_indices name
    the others."""
    return [name for name, adapter in adapters.items() if not isinstance(adapter, OnParameter | TokenAdapter)]


def _following(targets, tied):
    """The targets, of which those that are in {head: embedding} take over the embedding's adapter, rank and alpha."""
    ranks = {target.name: (target.r, target.lora_alpha) for target in targets}
    return [
        target._replace(r=ranks[source][0], lora_alpha=ranks[source][1], follows=source, kind=TiedLora)
        if (source := tied.get(target.name))
        else target
        for target in targets
    ]


def embedding_weights(model: Any, save_embedding_layers: bool | str = True) -> dict[str, nn.Parameter]:
    """{name: Parameter} of a model's embedding and head, where an adapter's file is to have them, as PEFT's.

    "auto": if the vocabulary has been resized since the model was loaded, as no other file has those; True: always,
    where the model has such layers; False: never. (With "auto" PEFT's files also have an embedding that is adapted,
    with the numbers that the base has anyway.)
    """
    found: dict[str, nn.Parameter] = {}
    resized = getattr(model, "resized", False)
    if (resized if save_embedding_layers == "auto" else save_embedding_layers) and hasattr(
        model, "get_input_embeddings"
    ):
        ends = model.get_input_embeddings(), model.get_output_embeddings()
        for name, module in model.named_modules():
            if isinstance(module, AdaptedLayer) and any(module is end for end in ends):
                deeper = "token_adapter." * (TokenAdapter in map(type, module.adapters.values()))
                found[f"{name}.{deeper}{BASE_WEIGHT}"] = module.base_layer.weight
            elif any(module is end for end in ends) and not isinstance(module, ModulesToSave | TiedHead):
                found[f"{name}.weight"] = module.weight
    return found


def _check_apart(adapted: Iterable[str], whole: Iterable[str]) -> None:
    """ValueError if an adapted layer lies in a module that is trained whole, or one such module in another.

    adapted, whole: the names of those, whichever adapters they belong to. A module may be trained whole by several.
    """
    adapted, whole = set(adapted), dict.fromkeys(whole)
    for name in whole:
        for other in [*adapted, *whole]:
            if f"{other}.".startswith(f"{name}.") and (other in adapted or other != name):
                what = "adapted" if other in adapted else "trained whole"
                raise ValueError(f"{other} is {what}, and modules_to_save trains {name} whole: choose one")


def _check_others(layer, changes, target):
    """ValueError if PiSSA or the like, which change the base weight, would be beside another, or LoRA beside rows.

    changes: does the new adapter, for `target`, change it?
    """
    others = layer.adapters.values() if isinstance(layer, AdaptedLayer) else ()
    if isinstance(layer, TiedHead) or (
        others and any(isinstance(a, TokenAdapter) != bool(target.tokens) for a in others)
    ):
        raise ValueError(f"{target.name} {ONE_KIND}")
    if others and (changes or any(adapter.initial is not None for adapter in others)):
        raise ValueError(
            "an adapter whose initialisation changes the weight (PiSSA, CorDA, LoftQ, ...) must be alone on "
            "its layers; saved with as_plain_lora=True it can be loaded beside others"
        )


def _check_weights(model, config, targets):
    """ValueError if a weight is not one that a part can be taken out of: in 4 bits, shared, or of too small a rank."""
    setting, shared = config.special or f"init_lora_weights={config.init_lora_weights!r}", shared_weights(model)
    for target in targets:
        if isinstance(target.layer, nn.FourBitLayer):
            raise ValueError(f"{setting} would change a 4-bit weight")
        if id(target.layer.weight) in shared:
            raise ValueError(f"{setting} would change a weight that {target.name} shares with another layer")
        check_start(config, target)


def _correct_orientation(config, layers, parameters):
    """Layers know their own `fan_in_fan_out`: a config that says otherwise is put right, with a warning."""
    if "fan_in_fan_out" not in config.__dict__:  # a kind that has no such setting
        return
    if parameters and not layers and config.fan_in_fan_out:
        warn("fan_in_fan_out set to False, as target_parameters are adapted as they are stored")
        config.fan_in_fan_out = False
    linear = next((layer for layer in layers if not isinstance(layer, nn.Embedding)), None)
    if linear is not None and config.fan_in_fan_out != linear.fan_in_fan_out:
        kind = type(linear).__name__
        warn(f"fan_in_fan_out set to {linear.fan_in_fan_out}, as {kind} layers need it")
        config.fan_in_fan_out = linear.fan_in_fan_out
