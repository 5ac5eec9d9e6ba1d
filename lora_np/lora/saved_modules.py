"""`modules_to_save`: parts of a model that an adapter trains whole, such as a new head."""

import contextlib
import copy
from collections.abc import Iterable, Mapping
from typing import Any

from .. import nn
from ..autograd.devices import array_module
from .call import this_call


class ModulesToSave(nn.Module):
    """A module and a trained copy of it for each adapter that asked for one. The active adapter's copy is used."""

    def __init__(self, module: nn.Module) -> None:
        self.original_module = module
        self.modules_to_save = nn.ModuleDict()
        self.active_adapters: list[str] = []
        self.owner: Any = None  # see `AdaptedLayer.owner`

    def __getattr__(self, attribute: str) -> Any:
        """What the module in use has, as in PEFT: `model.lm_head.weight`, `model.get_input_embeddings().weight`."""
        if "owner" in vars(self) and not attribute.startswith("_"):  # while a copy is being made there is none yet
            with contextlib.suppress(AttributeError):
                return getattr(self.chosen(), attribute)
        what = f"{type(self).__name__} and the module in it have no attribute {attribute!r}"
        raise AttributeError(what, name=attribute, obj=self)

    def chosen(self, names: Iterable[str] | None = None) -> nn.Module:
        """The copy of that one of these adapters (None: the active ones) which has one, or the original."""
        if this_call(self.owner).disabled:
            return self.original_module
        wanted = self.active_adapters if names is None else names
        return next((self.modules_to_save[n] for n in wanted if n in self.modules_to_save), self.original_module)

    def is_finite(self, names: Iterable[str] | None = None) -> bool:
        """Has `chosen(names)` no NaN or infinity in it?"""
        arrays = [p.data for p in self.chosen(names).parameters()]
        return all(bool(array_module(array).isfinite(array).all()) for array in arrays)

    def set_copies(self, copies: Mapping[str, nn.Module]) -> None:
        """Have just these copies, {adapter's name: module}."""
        self.modules_to_save = nn.ModuleDict()
        for name, module in copies.items():
            self.modules_to_save[name] = module

    def rename_adapter(self, old: str, new: str) -> None:
        """Give an adapter another name."""
        self.set_copies({new if name == old else name: module for name, module in self.copies().items()})
        self.active_adapters = [new if name == old else name for name in self.active_adapters]

    def copies(self) -> dict[str, nn.Module]:
        """{adapter's name: its copy of the module}."""
        return {name: self.modules_to_save[name] for name in self.modules_to_save}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.chosen()(*args, **kwargs)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module with parameters of its own; the copy of a tied head is not tied."""
    module = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, nn.Parameter):
            setattr(module, name, nn.Parameter(value.data.copy()))
        elif isinstance(value, nn.Module):
            setattr(module, name, copied(value))
    return module
