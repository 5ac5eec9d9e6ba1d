"""`modules_to_save`: parts of a model that an adapter trains whole, such as a new head."""

import copy

from .. import nn


class ModulesToSave(nn.Module):
    """A module with, for each adapter that asked for it, a trained copy. The active adapter's copy is the one used.

    The copy has arrays of its own: one of a tied head is tied no longer.
    """

    def __init__(self, module):
        self.original_module = module
        self.modules_to_save = nn.ModuleDict()
        self.active_adapters, self.adapters_disabled = [], False

    def add_adapter(self, name):
        """Copy the module for an adapter."""
        module = copy.copy(self.original_module)
        self.modules_to_save[name] = _copied(module)

    def chosen(self):
        """The module in use: the first active adapter's copy, or the original."""
        names = [name for name in self.active_adapters if name in self.modules_to_save]
        return self.modules_to_save[names[0]] if names and not self.adapters_disabled else self.original_module

    def rename_adapter(self, old, new):
        """Give an adapter another name."""
        if old in self.modules_to_save:
            self.modules_to_save[new] = self.modules_to_save[old]
            del self.modules_to_save[old]
        self.active_adapters = [new if name == old else name for name in self.active_adapters]

    def without_adapters(self):
        """Use the original; returns a function that undoes this."""
        before, self.adapters_disabled = self.adapters_disabled, True

        def undo():
            self.adapters_disabled = before

        return undo

    def forward(self, *args, **kwargs):
        return self.chosen()(*args, **kwargs)


def _copied(module):
    """`module`, a shallow copy, made a deep one: copies of its parameters and of its parts."""
    for name, value in vars(module).items():
        if isinstance(value, nn.Parameter):
            setattr(module, name, nn.Parameter(value.data.copy()))
        elif isinstance(value, nn.Module):
            setattr(module, name, _copied(copy.copy(value)))
    return module
