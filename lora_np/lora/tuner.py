"""LoraModel: puts adapters into a model's layers, switches them, merges them, and takes them out again."""

import copy

from .. import nn
from ..autograd import backend
from .adapted import AdaptedLayer
from .dora import Dora
from .embedding import LoraEmbedding
from .layer import LoraLinear
from .projection import PartialProjection
from .saved_modules import ModulesToSave
from .targets import match_names, own_modules, targets_of
from .variants import BranchBias


class LoraModel(nn.Module):
    """A model whose targeted layers are wrapped, each in an `AdaptedLayer`. The model itself is `model`, not a copy."""

    def __init__(self, model):
        self.model = model
        model.requires_grad_(False)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def layers(self):
        """[(dotted name, AdaptedLayer)] in the model's order."""
        return [(name, module) for name, module in self.model.named_modules() if isinstance(module, AdaptedLayer)]

    def saved_modules(self):
        """[(dotted name, ModulesToSave)] in the model's order."""
        return [(name, module) for name, module in self.model.named_modules() if isinstance(module, ModulesToSave)]

    @property
    def merged(self):
        """The names of the adapters that are merged into the weights, [] if none is."""
        return next((layer.merged_adapters for _, layer in self.layers() if layer.merged_adapters), [])

    def add_adapter(self, name, config):
        """Give what `config` targets an adapter called `name`, resting and frozen; returns the layers' names."""
        targets = targets_of(self.model, config)
        for target, parts in targets.items():
            layer = self.model.get_submodule(target)
            if not isinstance(layer, AdaptedLayer):
                wrapper = LoraEmbedding if isinstance(layer, nn.Embedding) else LoraLinear
                layer = wrapper(layer).train(layer.training)
                self.model.set_submodule(target, layer)
            layer.add_adapter(name, config, *config.rank_and_alpha(target))
            _attach_variant(layer, name, config, parts)
            _set_trainable(layer.parameters_of(name), False)
        for target in saved_module_names(self.model, config):
            module = self.model.get_submodule(target)
            if not isinstance(module, ModulesToSave):
                module = ModulesToSave(module).train(module.training)
                self.model.set_submodule(target, module)
            module.add_adapter(name)
            module.modules_to_save[name].requires_grad_(False)
        return list(targets)

    def delete_adapter(self, name):
        """Take the adapter `name` out of every layer; a layer without adapters is the plain layer again."""
        for target, layer in self.layers():
            if layer.has(name):
                layer.delete_adapter(name)
            if not layer.r:
                self.model.set_submodule(target, layer.base_layer)
        for target, module in self.saved_modules():
            if name in module.modules_to_save:
                del module.modules_to_save[name]
            if not len(module.modules_to_save):
                self.model.set_submodule(target, module.original_module)

    def rename_adapter(self, old, new):
        """Give an adapter another name in every layer."""
        for _, layer in self.layers():
            layer.rename_adapter(old, new)
        for _, module in self.saved_modules():
            module.rename_adapter(old, new)

    def set_adapter(self, names, biases=()):
        """Make these adapters, and no others, active and trainable, and with them the parameters in `biases`."""
        self.model.requires_grad_(False)
        for _, layer in self.layers():
            layer.active_adapters = [name for name in names if layer.has(name)]
            for name in layer.active_adapters:
                _set_trainable(layer.parameters_of(name), True)
        for _, module in self.saved_modules():
            module.active_adapters = list(names)
            if module.chosen() is not module.original_module:
                module.chosen().requires_grad_(True)
        for bias in biases:
            bias.requires_grad = True

    def biases(self, kind):
        """{name: Parameter} of the biases that `LoraConfig(bias=kind)` trains."""
        if kind == "none":
            return {}
        adapted = {id(getattr(layer.base_layer, "bias", None)) for _, layer in self.layers()}
        own = {id(p) for _, layer in self.layers() for name in layer.r for p in layer.parameters_of(name).values()}
        named = [(name, p) for name, p in self.model.named_parameters() if name.rpartition(".")[2] == "bias"]
        named = [(name, p) for name, p in named if id(p) not in own and not _in_saved_module(name)]
        return {name: p for name, p in named if kind == "all" or id(p) in adapted}

    def merge(self, safe_merge=False):
        """W ← W + Σ ΔW in every adapted layer. Nothing changes unless all of it can be done: see `check_mergeable`.

        Refused if already merged. With `safe_merge`, a merged weight that is not finite is a ValueError.
        """
        if self.merged:
            raise RuntimeError(f"already merged: {', '.join(self.merged)}; call unmerge_adapter() first")
        self.check_mergeable()
        layers = [(name, layer) for name, layer in self.layers() if layer.active_adapters]
        if safe_merge:
            for name, layer in layers:
                weight, _ = layer.merged_parameters()
                if not backend.array_module(weight).isfinite(weight).all():
                    raise ValueError(f"merging would leave NaN or infinity in {name}: the adapter is broken")
        for _, layer in layers:
            layer.merge(*layer.merged_parameters())

    def check_mergeable(self):
        """ValueError if an active adapter can not be merged.

        That is so where a layer shares its weight with another part of the model, which would be changed with it, and
        where the base is in 4 bits, which would round the update away.
        """
        for name, layer in self.layers():
            if not layer.active_adapters:
                continue
            if isinstance(layer.base_layer, nn.Linear4bit):
                raise ValueError(f"{name} is in 4 bits, too coarse for the update: merge into a base in float32")
            if is_shared(self.model, layer.base_layer.weight):
                raise ValueError(
                    f"{name} shares its weight with another layer: merging would change both; untie_weights() first"
                )

    def unmerge(self):
        """Give every layer its own weight back, bit for bit."""
        for _, layer in self.layers():
            layer.unmerge()

    def untie_weights(self):
        """Give every adapted layer whose weight is shared with another part of the model a copy of its own.

        The model's config then says so too: saved and loaded again, the weights must not be one.
        """
        shared = [layer for _, layer in self.layers() if is_shared(self.model, layer.base_layer.weight)]
        for layer in shared:
            weight = layer.base_layer.weight
            layer.base_layer.weight = nn.Parameter(weight.data.copy(), weight.requires_grad)
        self._tell_config()

    def _tell_config(self):
        """A head that was tied and is so no longer must not be saved as tied."""
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        weight = getattr(getattr(head, "base_layer", head), "weight", None)
        tied = getattr(getattr(self.model, "config", None), "tie_word_embeddings", False)
        if tied and weight is not None and not is_shared(self.model, weight):
            self.model.config = copy.copy(self.model.config)
            self.model.config.tie_word_embeddings = False

    def without_adapters(self):
        """Make the model compute what it did before any adapter; returns a function that undoes this."""
        undo = [layer.without_adapters() for _, layer in self.layers()]
        undo += [module.without_adapters() for _, module in self.saved_modules()]
        return lambda: [step() for step in undo]

    def unload(self):
        """The model with every adapted layer replaced by its base layer as it now is, saved modules by those in use."""
        for name, layer in self.layers():
            self.model.set_submodule(name, layer.base_layer)
        for name, module in self.saved_modules():
            self.model.set_submodule(name, module.chosen())
        self._tell_config()
        return self.model


def _in_saved_module(name):
    return ".modules_to_save." in name or ".original_module." in name


def is_shared(model, weight):
    """Do several parts of the model hold this very Parameter?"""
    return sum(p is weight for _, p in model.named_parameters(remove_duplicate=False)) > 1


def saved_module_names(model, config):
    """The dotted names of the modules that `config.modules_to_save` means, adapted or not."""
    if not config.modules_to_save:
        return []
    names = list(own_modules(model))
    return match_names(config.modules_to_save, names, names)


def _attach_variant(layer, name, config, parts):
    """Make the adapter more than s·B A where the config says so."""
    if parts:
        layer.variants[name] = PartialProjection(layer, name, parts, config)
    elif config.use_dora:
        layer.variants[name] = Dora(layer, name)
    elif config.lora_bias:
        layer.variants[name] = BranchBias(layer, name)


def _set_trainable(parameters, trainable):
    for p in parameters.values():
        p.requires_grad = trainable
