"""PeftModel: a frozen model with adapters, under the names that PEFT's users know."""

import contextlib
import warnings

from .. import nn
from ..autograd.tensor import is_grad_enabled
from .files import load_adapter_state, read_adapter, write_adapter
from .targets import find_targets
from .tuner import LoraModel


def get_peft_model(model, config, adapter_name="default"):
    """Freeze `model`, put an adapter beside each layer that `config` targets, and return it as a PeftModel.

    The model is changed in place: its targeted layers are wrapped. ValueError, with nothing changed, if a target
    matches no layer.
    """
    return PeftModel(model, config, adapter_name)


class PeftModel(nn.Module):
    """A model with named adapters. Calling it calls the model; the active adapters take part.

    base_model   the LoraModel that holds the model (`base_model.model`)
    peft_config  {adapter name: LoraConfig}
    """

    def __init__(self, model, config, adapter_name="default"):
        if isinstance(model, PeftModel) or any(hasattr(module, "lora_A") for module in model.modules()):
            raise ValueError("this model has adapters already: use add_adapter(name, config) on its PeftModel")
        self.peft_config, self.active_adapters = {}, []
        self._check_new_adapter(model, adapter_name, config)
        self.base_model = LoraModel(model)
        self.training = model.training
        self._add(adapter_name, config)
        self.set_adapter(adapter_name)

    def forward(self, *args, **kwargs):
        if self.training and is_grad_enabled():
            self._refuse_if_merged("training")
        return self.base_model(*args, **kwargs)

    @property
    def config(self):
        """The base model's configuration."""
        return self.base_model.model.config

    def get_base_model(self):
        """The model itself, its targeted layers still wrapped."""
        return self.base_model.model

    def generate(self, ids, **options):
        """Continue `ids` with the active adapters; see the base model's generate."""
        return self.base_model.model.generate(ids, **options)

    def add_adapter(self, adapter_name, config):
        """Add an adapter beside the ones there are. It is not active until `set_adapter`."""
        self._refuse_if_merged("adding an adapter")
        self._check_new_adapter(self.base_model.model, adapter_name, config)
        self._add(adapter_name, config)

    def _add(self, name, config):
        if config.base_model_name_or_path is None:
            config.base_model_name_or_path = getattr(
                getattr(self.base_model.model, "config", None), "name_or_path", None
            )
        self.base_model.add_adapter(name, config)
        self.peft_config[name] = config

    def _check_new_adapter(self, model, name, config):
        """Everything that can be wrong with a new adapter, found before anything is changed."""
        self._check_new_name(name)
        configs = [*self.peft_config.values(), config]
        if len(configs) > 1 and any(c.bias != "none" for c in configs):
            raise ValueError("adapters that train biases change the base model: only one adapter at a time can do that")
        layer = model.get_submodule(find_targets(model, config.target_modules)[0])
        layer = getattr(layer, "base_layer", layer)
        if config.fan_in_fan_out != layer.fan_in_fan_out:
            kind = type(layer).__name__
            warnings.warn(f"fan_in_fan_out set to {layer.fan_in_fan_out}, as {kind} layers need it", stacklevel=4)
            config.fan_in_fan_out = layer.fan_in_fan_out

    def _check_new_name(self, name):
        if name in self.peft_config:
            raise ValueError(f"there is an adapter {name!r} already: choose another name, or delete_adapter it first")
        if not name or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"an adapter's name must be made of letters, digits and _, got {name!r}")

    def set_adapter(self, adapter_name):
        """Make one adapter, or a list of them, active and trainable; the others rest."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        for name in names:
            self._check_known(name)
        self._refuse_if_merged("switching adapters")
        self._activate(names)

    def _activate(self, names):
        self.active_adapters = names
        kinds = {self.peft_config[name].bias for name in names}
        self.base_model.set_adapter(names, [p for kind in kinds for p in self.base_model.biases(kind).values()])

    def delete_adapter(self, adapter_name):
        """Remove an adapter. If none is active any more, the first of the others becomes so."""
        self._check_known(adapter_name)
        self._refuse_if_merged("deleting an adapter")
        self.base_model.delete_adapter(adapter_name)
        del self.peft_config[adapter_name]
        left = [name for name in self.active_adapters if name != adapter_name]
        self._activate(left or list(self.peft_config)[:1])

    @contextlib.contextmanager
    def disable_adapter(self):
        """Inside this block the model is the base model, also if adapters were merged."""
        merged = bool(self.base_model.merged)
        self.base_model.unmerge()
        layers = self.base_model.layers()
        before = [layer.adapters_disabled for _, layer in layers]
        for _, layer in layers:
            layer.adapters_disabled = True
        try:
            yield
        finally:
            for (_, layer), disabled in zip(layers, before, strict=True):
                layer.adapters_disabled = disabled
            if merged:
                self.base_model.merge()

    def merge_adapter(self, safe_merge=False):
        """Add the active adapters' ΔW to the weights: the same results at the base model's cost."""
        self.base_model.merge(safe_merge)

    def unmerge_adapter(self):
        """Undo `merge_adapter`, bit for bit. Nothing happens if nothing is merged."""
        self.base_model.unmerge()

    def merge_and_unload(self, safe_merge=False):
        """Merge the active adapters and return the plain model, with no trace of LoRA in it."""
        if not self.base_model.merged:
            self.base_model.merge(safe_merge)
        return self.base_model.unload()

    def unload(self):
        """Return the plain base model; the adapters are dropped."""
        self.base_model.unmerge()
        return self.base_model.unload()

    def get_nb_trainable_parameters(self):
        """(trainable, all): how many numbers are trained, and how many there are, adapters included."""
        return self.num_parameters(only_trainable=True), self.num_parameters()

    def print_trainable_parameters(self):
        """Print PEFT's line about how much is trained."""
        trainable, total = self.get_nb_trainable_parameters()
        print(
            f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {100 * trainable / total:.4f}"
        )

    def save_pretrained(self, directory, selected_adapters=None):
        """Write each adapter in PEFT's format: "default" into `directory`, others into folders of their names there."""
        self._refuse_if_merged("saving")
        names = list(self.peft_config if selected_adapters is None else selected_adapters)
        for name in names:
            self._check_known(name)
        for name in names:
            write_adapter(self, name, directory)

    def load_adapter(self, directory, adapter_name, is_trainable=False):
        """Add the adapter saved in `directory` under a new name. With any error, the model is as it was."""
        self._check_new_name(adapter_name)
        self._refuse_if_merged("loading an adapter")
        config, state = read_adapter(directory, self.base_model.model, is_trainable)
        self.add_adapter(adapter_name, config)
        load_adapter_state(self, adapter_name, state)

    @classmethod
    def from_pretrained(cls, model, directory, adapter_name="default", is_trainable=False):
        """`model` with the adapter that this library or PEFT saved in `directory`.

        With any error, `model` is as it was. Frozen, for use and not for training, unless `is_trainable`.
        """
        config, state = read_adapter(directory, model, is_trainable)
        peft_model = cls(model, config, adapter_name)
        load_adapter_state(peft_model, adapter_name, state)
        if not is_trainable:
            peft_model.requires_grad_(False)
        return peft_model

    def _check_known(self, name):
        if name not in self.peft_config:
            raise KeyError(f"no adapter {name!r}; there are {', '.join(map(repr, self.peft_config)) or 'none'}")

    def _refuse_if_merged(self, what):
        if self.base_model.merged:
            names = ", ".join(self.base_model.merged)
            raise RuntimeError(f"{what} while {names} is merged into the weights: call unmerge_adapter() first")
