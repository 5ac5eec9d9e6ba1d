"""Attributes that are another's, as in PEFT: a PeftModel has those of its LoraModel, which has those of the model.

So `peft_model.transformer` is the model's, and `peft_model.base_model.merge_adapter()` is what it is on the PeftModel.
Python asks `__getattr__` only for what it has not found, so that nothing that is there gets slower.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from .. import nn
from .call import Call, Owner, in_block, this_call
from .in_training import add_terms, in_training, method_of_kinds

if TYPE_CHECKING:
    from .peft_config import PeftConfig

ON_BOTH = frozenset(  # what PEFT's users call on a LoraModel, and a PeftModel does here
    (
        *("active_adapter", "add_weighted_adapter", "delete_adapter", "merge_adapter", "merge_and_unload"),
        *("set_adapter", "set_requires_grad", "unload", "unmerge_adapter"),
    )
)


class Forwarding(nn.Module):
    """A module around another one, whose attributes it has too. Abstract.

    inner   the name of the attribute that holds the other one
    """

    inner: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        """The other one's attribute; AttributeError, with this class and the model's, if it has none."""
        inner = vars(self).get(self.inner)  # while a copy is being made there is none yet
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)
        try:
            return getattr(inner, name)
        except AttributeError:
            what = f"{type(self).__name__} of {_model(inner)} has no attribute {name!r}"
            raise AttributeError(what, name=name, obj=self) from None


class Tuner(Forwarding):
    """What PEFT's users find on `peft_model.base_model`. Abstract: `LoraModel` puts the adapters into the layers.

    peft_config      {adapter name: its PeftConfig}
    active_adapters  the names of those that take part
    """

    inner = "model"
    peft_config: dict[str, "PeftConfig"]
    active_adapters: list[str]
    adapted: dict[str, Any]
    saved: dict[str, Any]
    owner: Owner
    _list_layers: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        """What a PeftModel around this does, the model's attribute, or a method that the adapters' kind has."""
        if name in ON_BOTH and "model" in vars(self):
            from .peft_model import PeftModel  # which imports this module

            return getattr(PeftModel.around(self), name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            own = method_of_kinds(vars(self).get("peft_config", {}), name)
            if own is None:
                raise
            return getattr(self, own)

    def with_terms(self, output: Any) -> Any:
        """What the model returned, its loss with what the adapters' kind adds to it."""
        return add_terms(self, output)

    def after_step(self, step: int) -> None:
        """What the adapters' kind does after step number `step` (from 0) of training, before gradients are cleared."""
        for kind, config, name, adapters in in_training(self):
            kind.after_step(config, name, adapters, step)

    @property
    def targeted_module_names(self) -> list[str]:
        """The dotted names of the layers that have adapters."""
        return list(self.adapted)

    @property
    def is_disabled(self) -> bool:
        """Are the adapters left out here: in a block of `disable_adapter`, or until `enable_adapter_layers`?"""
        return this_call(self.owner).disabled

    @nn.all_or_nothing
    def disable_adapter_layers(self) -> None:
        """Leave all adapters out, and do not train them, until `enable_adapter_layers`."""
        self._switch(False)
        for layer in self.adapted.values():
            for adapter in layer.adapters.values():
                adapter.requires_grad_(False)
        for module in self.saved.values():
            module.modules_to_save.requires_grad_(False)

    @nn.all_or_nothing
    def enable_adapter_layers(self) -> None:
        """Have the active adapters take part again, to be trained."""
        self._switch(True)
        self.set_adapter(self.active_adapters)

    def _get_kasa_loss(self, adapter_names: str | Iterable[str] | None = None) -> Any:
        """What KaSA adds to the loss (`variants/kasa.py`), of these adapters; None: of the active ones. PEFT's name."""
        from .variants.kasa import regularization

        return regularization(self._adapters_of(adapter_names))

    def _get_monteclora_loss(self, adapter_names: str | Iterable[str] | None = None) -> Any:
        """What MonteCLoRA adds to the loss (`variants/monteclora.py`), in the same way."""
        from .variants.monteclora import regularization

        return regularization(self._adapters_of(adapter_names))

    def _adapters_of(self, names):
        names = [names] if isinstance(names, str) else names or self.active_adapters
        layers = [layer.adapters for layer in self.adapted.values()]
        return [own[name] for name in names for own in layers if name in own]

    def _switch(self, on):
        if in_block(self.owner):
            raise RuntimeError("switching adapter layers inside disable_adapter(): do it outside of the block")
        self.owner = Owner(Call(disabled=not on))  # a new one: what is being computed goes on with the other
        self._list_layers()


def _model(inner):
    """The name of the class of the model inside all wrappers."""
    while isinstance(inner, Forwarding):
        inner = vars(inner).get(inner.inner)
    return type(inner).__name__
