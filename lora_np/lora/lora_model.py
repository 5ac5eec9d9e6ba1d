"""LoraModel: puts adapters into a model's layers, switches them, merges them, and takes them out again."""

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from typing import Any

from .. import nn
from ..autograd import Tensor
from .adapter import Adapter, listed
from .base_layer import all_finite, note_untied, shared_weights, stay_finite, untie
from .call import Owner, calling
from .forwarding import Tuner
from .four_bit import requantized
from .kinds import wrapped
from .layer import AdaptedLayer
from .model_adapter import ModelAdapter, new_adapter
from .peft_config import PeftConfig
from .saved_modules import ModulesToSave
from .targets import biases_of, own_modules
from .tied_heads import followed, tie_heads


def adapters_in(model: nn.Module) -> list[Adapter]:
    """All adapters anywhere in a model."""
    layers = (module for module in model.modules() if isinstance(module, AdaptedLayer))
    return [adapter for layer in layers for adapter in layer.adapters.values()]


class LoraModel(Tuner):
    """A model whose targeted layers are wrapped, each in an `AdaptedLayer`. The model itself is `model`, not a copy.

    adapted  {dotted name: AdaptedLayer}, in the model's order
    saved    {dotted name: ModulesToSave}, likewise
    shared   {adapter: {name: tensor}} of what the layers of an adapter have in common
    tied     {dotted name: TiedHead} of heads that follow an embedding
    owner    stands for this adapted model where a call says what it asks of the adapters: see `call.py`
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.peft_config, self.active_adapters = {}, []
        self.shared: dict[str, dict[str, Tensor]] = {}
        self.owner = Owner()
        model.requires_grad_(False)
        self._list_layers()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.with_terms(self.model(*args, **kwargs))

    def held(self) -> dict[str, nn.Module]:
        """The model, and what adapters share under PEFT's names: `vera_A.default`."""
        return {"model": self.model, **listed(self.shared)}

    def _list_layers(self) -> None:
        adapted: dict[str, Any] = {}
        saved: dict[str, Any] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, (AdaptedLayer, ModulesToSave)):
                (adapted if isinstance(module, AdaptedLayer) else saved)[name] = module
                module.owner = self.owner
        # As a whole, once all is found: other threads may be reading the ones before, such as those whose adapters
        # an AdapterCache keeps in use while it loads others.
        self.adapted, self.saved = adapted, saved
        tie_heads(self)

    def layers(self) -> list[tuple[str, AdaptedLayer]]:
        """[(dotted name, AdaptedLayer)] in the model's order."""
        return list(self.adapted.items())

    def saved_modules(self) -> list[tuple[str, ModulesToSave]]:
        """[(dotted name, ModulesToSave)] in the model's order."""
        return list(self.saved.items())

    @property
    def merged(self) -> list[str]:
        """The names of the adapters that are merged into the weights, [] if none is."""
        return list(dict.fromkeys(name for layer in self.adapted.values() for name in layer.merged_adapters))

    def adapter(self, name: str) -> ModelAdapter:
        """The `ModelAdapter` of this name; its `biases` are left empty."""
        adapters = {target: layer.adapters[name] for target, layer in self.adapted.items() if name in layer.adapters}
        copies = {t: m.modules_to_save[name] for t, m in self.saved.items() if name in m.modules_to_save}
        return ModelAdapter(adapters, copies, self.shared.get(name, {}))

    def add_adapter(self, name: str, config: PeftConfig) -> list[str]:
        """Give what `config` targets an adapter called `name`, inactive and frozen; returns the layers' names."""
        return self.attach(name, new_adapter(self.model, config, (self.adapted, self.saved)))

    @nn.all_or_nothing
    def attach(self, name: str, model_adapter: ModelAdapter) -> list[str]:
        """Put what a `ModelAdapter` holds in its places, inactive and frozen; returns the layers' names.

        This is where a plain layer becomes an adapted one.
        """
        model_adapter.enter(self.model)
        for target, adapter in model_adapter.adapters.items():
            layer = self.adapted.get(target) or self._replace(target, wrapped)
            layer.set_adapters({**layer.adapters, name: adapter})
        for target, module in model_adapter.copies.items():
            saved = self.saved.get(target) or self._replace(target, ModulesToSave)
            saved.set_copies({**saved.copies(), name: module})
        if model_adapter.shared:
            self.shared = {**self.shared, name: model_adapter.shared}
        self._list_layers()
        return list(model_adapter.adapters)

    def _replace(self, target, wrapper):
        """Put wrapper(module) in the place of the module at a dotted name."""
        module = self.model.get_submodule(target)
        new = wrapper(module).train(module.training)
        self.model.set_submodule(target, new)
        return new

    def detach(self, name: str) -> None:
        """Take the adapter `name` out of every layer; a layer without adapters is the plain layer again."""
        for target, layer in self.adapted.items():
            layer.delete_adapter(name)
            if not layer.adapters:
                self.model.set_submodule(target, layer.base_layer)
        for target, module in self.saved.items():
            module.set_copies({other: copy for other, copy in module.copies().items() if other != name})
            if not len(module.modules_to_save):
                self.model.set_submodule(target, module.original_module)
        self.shared = {other: tensors for other, tensors in self.shared.items() if other != name}
        self._list_layers()

    def rename(self, old: str, new: str) -> None:
        """Give an adapter another name in every layer."""
        for module in (self.adapted | self.saved).values():
            module.rename_adapter(old, new)
        self.shared = {new if name == old else name: tensors for name, tensors in self.shared.items()}

    def activate(self, names: Collection[str], biases: Iterable[nn.Parameter] = ()) -> None:
        """Make these adapters active and trainable, and the parameters in `biases` trainable; nothing else is."""
        (self if self.shared else self.model).requires_grad_(False)
        for layer in self.adapted.values():
            layer.active_adapters = [name for name in names if name in layer.adapters]
            for name in layer.active_adapters:
                layer.adapters[name].requires_grad_(True)
        for module in self.saved.values():
            module.active_adapters = list(names)
            if module.chosen() is not module.original_module:
                module.chosen().requires_grad_(True)
        for bias in biases:
            bias.requires_grad = True

    def biases(self, kind: str) -> dict[str, nn.Parameter]:
        """{name: Parameter} of the biases that a config with `bias=kind` trains."""
        return biases_of(own_modules(self.model), kind, self.adapted, self.saved) if kind != "none" else {}

    @nn.all_or_nothing
    def merge(self, safe_merge: bool = False, names: list[str] | None = None) -> None:
        """W ← W + Σ ΔW over these adapters (None: the active ones) in every adapted layer, or nothing at all.

        A weight in 4 bits is rounded to 4 bits again, and a warning says what that loses (`four_bit.py`).
        RuntimeError if adapters are merged already. ValueError as in `check_mergeable`, and with `safe_merge` for
        numbers that would not be finite: of merged weights, in the base's dtype, of trained copies, and of biases.
        """
        if self.merged:
            raise RuntimeError(f"already merged: {', '.join(self.merged)}; call unmerge_adapter() first")
        self.check_mergeable(names)
        chosen = {name: layer.chosen(names) for name, layer in self.adapted.items() if layer.chosen(names)}
        merged = {name: self.adapted[name].merged_parameters(own) for name, own in chosen.items()}
        if safe_merge:
            broken = [
                name for name, arrays in merged.items() if not stay_finite(self.adapted[name].base_layer, *arrays)
            ]
            broken += [name for name, module in self.saved.items() if not module.is_finite(names)]
            broken += [name for name, p in self.biases("all").items() if not all_finite([p.data])]
            if broken:
                raise ValueError(f"merging would leave NaN or infinity in {', '.join(broken)}: the adapter is broken")
        merged = requantized(self.adapted, merged)
        for name, own in chosen.items():
            self.adapted[name].merge(*merged[name], own)

    def check_mergeable(self, names: list[str] | None = None) -> None:
        """ValueError if one of these adapters (None: the active ones) cannot be merged.

        It cannot where its layer shares the weight with another part of the model, which would be changed too.
        """
        shared = shared_weights(self.model) - followed(self)
        for name, layer in self.adapted.items():
            if not layer.chosen(names):
                continue
            if not all(layer.adapters[own].can_merge_into(layer.base_layer) for own in layer.chosen(names)):
                raise ValueError(f"{name} has zero points, which take only QA-LoRA's update, of groups like theirs")
            if id(layer.base_layer.weight) in shared:
                raise ValueError(
                    f"{name} shares its weight with another layer, which merging would change too: untie_weights() "
                    "first, or leave it out of target_modules"
                )

    @nn.all_or_nothing
    def unmerge(self) -> None:
        """Give every layer its own weight back, bit for bit."""
        for layer in self.adapted.values():
            layer.unmerge()

    @nn.all_or_nothing
    def untie_weights(self) -> None:
        """Give every adapted layer whose weight is shared with another part of the model a copy of its own.

        The model's config then says that the head is not tied, so that it is not when the model is saved and loaded.
        """
        untie(self.model, [layer.base_layer for layer in self.adapted.values()])

    def disabled(self) -> AbstractContextManager[None]:
        """A block inside which the model computes what it did before any adapter; trained biases stay."""
        return calling(self.owner, disabled=True)

    def plain(self, names: list[str] | None = None) -> Any:
        """The model with no adapters: adapted layers become their base layers, as these now are.

        A module that was trained whole becomes the copy of these adapters (None: the active ones), or the original.
        """
        for name, layer in self.adapted.items():
            self.model.set_submodule(name, layer.base_layer)
        for name, module in self.saved.items():
            self.model.set_submodule(name, module.chosen(names))
        self._list_layers()
        note_untied(self.model)
        return self.model

    def forget_adapters(self) -> None:
        """Drop every layer's adapters and every module's copies, and undo what merging and initialisation changed."""
        for layer in self.adapted.values():
            layer.unmerge()
            layer.set_adapters({})
        for module in self.saved.values():
            module.set_copies({})
