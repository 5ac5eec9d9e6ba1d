"""LoraModel: puts adapters into a model's layers, switches them, merges them, and takes them out again."""

from collections import Counter

from .. import nn
from ..autograd import backend
from .layer import LoraLinear
from .targets import find_targets


class LoraModel(nn.Module):
    """A model whose targeted layers are wrapped in `LoraLinear`. The model itself is `model`; nothing is copied."""

    def __init__(self, model):
        self.model = model
        model.requires_grad_(False)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def layers(self):
        """[(dotted name, LoraLinear)]: the adapted layers in the model's order."""
        return [(name, module) for name, module in self.model.named_modules() if isinstance(module, LoraLinear)]

    @property
    def merged(self):
        """The names of the adapters that are merged into the weights, [] if none is."""
        return next((layer.merged_adapters for _, layer in self.layers() if layer.merged_adapters), [])

    def add_adapter(self, name, config):
        """Give every layer that `config` targets an adapter called `name`, resting and frozen; returns their names."""
        targets = find_targets(self.model, config.target_modules)
        for target in targets:
            layer = self.model.get_submodule(target)
            if not isinstance(layer, LoraLinear):
                layer = LoraLinear(layer).train(layer.training)
                self.model.set_submodule(target, layer)
            layer.add_adapter(name, config)
            layer.lora_A[name].requires_grad_(False)
            layer.lora_B[name].requires_grad_(False)
        return targets

    def delete_adapter(self, name):
        """Take the adapter `name` out of every layer; a layer without adapters is the plain layer again."""
        for target, layer in self.layers():
            if name in layer.lora_A:
                layer.delete_adapter(name)
            if not len(layer.lora_A):
                self.model.set_submodule(target, layer.base_layer)

    def set_adapter(self, names, biases=()):
        """Make these adapters, and no others, active and trainable, and with them the parameters in `biases`."""
        self.model.requires_grad_(False)
        for _, layer in self.layers():
            layer.active_adapters = [name for name in names if name in layer.lora_A]
            for name in layer.active_adapters:
                layer.lora_A[name].requires_grad_(True)
                layer.lora_B[name].requires_grad_(True)
        for bias in biases:
            bias.requires_grad = True

    def biases(self, kind):
        """{name: Parameter} of the biases that `LoraConfig(bias=kind)` trains."""
        if kind == "none":
            return {}
        adapted = {id(layer.base_layer.bias) for _, layer in self.layers()}
        named = [(name, p) for name, p in self.model.named_parameters() if name.rpartition(".")[2] == "bias"]
        return {name: p for name, p in named if kind == "all" or id(p) in adapted}

    def merge(self, safe_merge=False):
        """W ← W + Σ ΔW in every adapted layer. Nothing changes unless all of it can be done.

        Refused if already merged, or if a layer shares its weight with another part of the model, which would be
        changed with it. With `safe_merge`, a merged weight that is not finite is a ValueError.
        """
        if self.merged:
            raise RuntimeError(f"already merged: {', '.join(self.merged)}; call unmerge_adapter() first")
        owners = Counter(id(p) for _, p in self.model.named_parameters(remove_duplicate=False))
        layers = [(name, layer) for name, layer in self.layers() if layer.active_adapters]
        for name, layer in layers:
            if owners[id(layer.base_layer.weight)] > 1:
                raise ValueError(f"{name} shares its weight with another layer: merging would change both")
        if safe_merge:
            for name, layer in layers:
                weight = layer.merged_weight()
                if not backend.array_module(weight).isfinite(weight).all():
                    raise ValueError(f"merging would leave NaN or infinity in {name}: the adapter is broken")
        for _, layer in layers:
            layer.merge(layer.merged_weight())

    def unmerge(self):
        """Give every layer its own weight back, bit for bit."""
        for _, layer in self.layers():
            layer.unmerge()

    def unload(self):
        """The model with every adapted layer replaced by its base layer as it now is."""
        for name, layer in self.layers():
            self.model.set_submodule(name, layer.base_layer)
        return self.model
