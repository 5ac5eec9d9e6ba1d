"""PeftModel: a frozen model with adapters, under the names that PEFT's users know."""

import contextlib
import warnings

from .. import nn
from ..autograd.tensor import is_grad_enabled
from ..autograd.threads import limit_threads
from .adapted import AdaptedLayer
from .files import load_adapter_state, read_adapter, write_adapter
from .init import changes_base, check_rank
from .saved_modules import ModulesToSave
from .status import format_status, layer_status
from .targets import targets_of
from .tuner import LoraModel, is_shared, saved_module_names
from .weighted import add_combined

BASE = "__base__"  # in adapter_names: no adapter for this row


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
        if any(isinstance(module, (PeftModel, AdaptedLayer, ModulesToSave)) for module in model.modules()):
            raise ValueError("this model has adapters already: use add_adapter(name, config) on its PeftModel")
        self.peft_config, self.active_adapters, self.disabled = {}, [], 0
        self._check_new_adapter(model, adapter_name, config)
        self.base_model = LoraModel(model)
        self.training = model.training
        self._add(adapter_name, config)
        self.set_adapter(adapter_name)

    def forward(self, *args, adapter_names=None, **kwargs):
        """Call the model with the active adapters.

        adapter_names: a name for each row of the batch, to use its own adapter for each; "__base__" stands for none.
        """
        if self.training and is_grad_enabled():
            self._refuse_if_merged("training")
        if adapter_names is None:
            return self.base_model(*args, **kwargs)
        return self._forward_rows(list(adapter_names), args, kwargs)

    def _forward_rows(self, names, args, kwargs):
        self._refuse_if_merged("naming adapters row by row")
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None or len(ids) != len(names):
            raise ValueError(f"adapter_names has {len(names)} names: it needs one for each row of input_ids")
        for name in set(names) - {BASE}:
            self._check_known(name)
        if BASE in names and any(layer.initial for _, layer in self.base_model.layers()):
            raise ValueError(f"{BASE!r} needs the base weights, and a PiSSA or OLoRA adapter has changed them")
        if self.base_model.saved_modules():
            raise ValueError("adapter_names does not go with modules_to_save: a batch goes through one copy of them")
        layers = [layer for _, layer in self.base_model.layers()]
        for layer in layers:
            layer.row_adapters = names
        try:
            with limit_threads(1):  # the layers look rows up by their place in the whole batch
                return self.base_model(*args, **kwargs)
        finally:
            for layer in layers:
                layer.row_adapters = None

    @property
    def config(self):
        """The base model's configuration."""
        return self.base_model.model.config

    def get_base_model(self):
        """The model itself, its targeted layers still wrapped."""
        return self.base_model.model

    def gradient_checkpointing_enable(self):
        """Keep only the input of each block for the backward pass; see the base model's method."""
        self.base_model.model.gradient_checkpointing_enable()

    def gradient_checkpointing_disable(self):
        """Keep what the backward pass needs, as usual."""
        self.base_model.model.gradient_checkpointing_disable()

    def generate(self, ids, **options):
        """Continue `ids` with the active adapters; see the base model's generate."""
        return self.base_model.model.generate(ids, **options)

    def stream(self, ids, **options):
        """Continue `ids` with the active adapters, token by token; see the base model's stream."""
        return self.base_model.model.stream(ids, **options)

    def add_adapter(self, adapter_name, config):
        """Add an adapter beside the ones there are. It is not active until `set_adapter`."""
        self._refuse_change("adding an adapter")
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
        targets = targets_of(model, config)
        self._check_apart(targets, saved_module_names(model, config))
        if any(targets.values()) and (changes_base(config.init_lora_weights) or config.use_dora or config.lora_bias):
            parts = ", ".join(dict.fromkeys(part for found in targets.values() for part in found))
            raise ValueError(f"parts of a projection ({parts}) take plain LoRA that leaves the base as it is")
        layers = [model.get_submodule(target) for target in targets]
        self._check_company(layers, config)
        layers = [getattr(layer, "base_layer", layer) for layer in layers]
        self._check_layers(layers, config)
        if changes_base(config.init_lora_weights):
            for target, layer in zip(targets, layers, strict=True):
                self._check_change(model, target, layer, config)
        linear = [layer for layer in layers if not isinstance(layer, nn.Embedding)]
        if linear and config.fan_in_fan_out != linear[0].fan_in_fan_out:
            kind = type(linear[0]).__name__
            warnings.warn(f"fan_in_fan_out set to {linear[0].fan_in_fan_out}, as {kind} layers need it", stacklevel=4)
            config.fan_in_fan_out = linear[0].fan_in_fan_out

    @staticmethod
    def _check_company(layers, config):
        """PiSSA and OLoRA take part of W out of the base: another adapter beside them would mean something else."""
        for layer in layers:
            if isinstance(layer, AdaptedLayer) and (layer.initial or changes_base(config.init_lora_weights)):
                raise ValueError(
                    "an adapter that starts by taking part of the weight out of it (PiSSA, OLoRA) must be alone on its "
                    "layers; saved with as_plain_lora=True it can be loaded beside others"
                )

    @staticmethod
    def _check_apart(targets, saved):
        """A module trained whole has no use for an adapter inside it."""
        for name in saved:
            inside = [target for target in targets if f"{target}.".startswith(f"{name}.")]
            if inside:
                raise ValueError(f"{inside[0]} is adapted, and modules_to_save trains {name} whole: choose one")

    @staticmethod
    def _check_layers(layers, config):
        """Refuse what some kinds of layers can not do."""
        for layer in layers:
            kind = type(layer).__name__
            if isinstance(layer, nn.Embedding) and (config.use_dora or config.lora_bias):
                raise ValueError("use_dora and lora_bias are for linear layers, not for an Embedding")
            if isinstance(layer, nn.Embedding) and not isinstance(config.init_lora_weights, bool):
                raise ValueError(
                    f"an Embedding takes init_lora_weights True or False, not {config.init_lora_weights!r}"
                )
            if config.lora_bias and layer.bias is None:
                raise ValueError(f"lora_bias needs layers with a bias, and a targeted {kind} has none")

    @staticmethod
    def _check_change(model, name, layer, config):
        """Refuse to take a part out of a weight that has none such, or that must stay as it is."""
        start = f"init_lora_weights={config.init_lora_weights!r}"
        if isinstance(layer, nn.Linear4bit):
            raise ValueError(f"{start} would change a 4-bit weight")
        if is_shared(model, layer.weight):
            raise ValueError(f"{start} would change a weight that {name} shares with another layer")
        r, _ = config.rank_and_alpha(name)
        check_rank(config.init_lora_weights, (layer.out_features, layer.in_features), r)

    def _check_new_name(self, name):
        if name in self.peft_config:
            raise ValueError(f"there is an adapter {name!r} already: choose another name, or delete_adapter it first")
        if not name or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"an adapter's name is made of letters, digits and _, no digit first, and is no method's: not {name!r}"
            )
        if name == BASE:
            raise ValueError(f"{BASE!r} stands for the model without an adapter: choose another name")

    def set_adapter(self, adapter_name):
        """Make one adapter, or a list of them, active and trainable; the others rest."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(dict.fromkeys(adapter_name))
        for name in names:
            self._check_known(name)
        self._refuse_change("switching adapters")
        self._activate(names)

    def _activate(self, names):
        self.active_adapters = names
        kinds = {self.peft_config[name].bias for name in names}
        self.base_model.set_adapter(names, [p for kind in kinds for p in self.base_model.biases(kind).values()])

    def delete_adapter(self, adapter_name):
        """Remove an adapter. If none is active any more, the first of the others becomes so."""
        self._check_known(adapter_name)
        self._refuse_change("deleting an adapter")
        self.base_model.delete_adapter(adapter_name)
        del self.peft_config[adapter_name]
        if adapter_name in self.active_adapters:
            left = [name for name in self.active_adapters if name != adapter_name]
            self._activate(left or list(self.peft_config)[:1])

    def rename_adapter(self, old, new):
        """Give an adapter another name; it stays active if it was."""
        self._check_known(old)
        self._check_new_name(new)
        self._refuse_change("renaming an adapter")
        self.base_model.rename_adapter(old, new)
        self.peft_config = {new if name == old else name: config for name, config in self.peft_config.items()}
        self.active_adapters = [new if name == old else name for name in self.active_adapters]

    def set_scale(self, adapter_name, scale):
        """Multiply an adapter's scaling by `scale`, from its configured value.

        0 leaves s·B A out; a DoRA magnitude, or what PiSSA took from the base, stays. Not saved: files hold alpha."""
        self._check_known(adapter_name)
        self._refuse_change("rescaling an adapter")
        config = self.peft_config[adapter_name]
        for _, layer in self.base_model.layers():
            if layer.has(adapter_name):
                r, alpha = layer.r[adapter_name], layer.lora_alpha[adapter_name]
                layer.scaling[adapter_name] = scale * config.scaling_of(r, alpha)

    def add_weighted_adapter(self, adapters, weights, adapter_name, combination_type="svd", **options):
        """Add an adapter that combines others; see `combine.combine` for the kinds and their options.

        Its scaling is 1 (alpha = r; √r under rsLoRA) in every layer. Layers that only some of the adapters have combine
        those. Only plain LoRA on linear layers can be combined.
        """
        for name in adapters:
            self._check_known(name)
        self._check_new_name(adapter_name)
        self._refuse_change("combining adapters")
        add_combined(self, list(adapters), list(weights), adapter_name, combination_type, options)

    @contextlib.contextmanager
    def disable_adapter(self):
        """Inside this block the model is the base model, also if adapters were merged. Trained biases stay in it.

        Merging, adding, deleting, renaming and switching adapters have to wait until the block ends.
        """
        undo, self.disabled = self.base_model.without_adapters(), self.disabled + 1
        try:
            yield
        finally:
            self.disabled -= 1
            undo()

    def merge_adapter(self, safe_merge=False):
        """Add the active adapters' ΔW to the weights: the same results at the base model's cost."""
        self._refuse_if_disabled("merging")
        self.base_model.merge(safe_merge)

    def untie_weights(self):
        """Give each adapted layer that shares its weight (a tied head) a copy of its own, so that it can be merged."""
        self.base_model.untie_weights()

    def unmerge_adapter(self):
        """Undo `merge_adapter`, bit for bit. Nothing happens if nothing is merged."""
        self._refuse_if_disabled("unmerging")
        self.base_model.unmerge()

    def merge_and_unload(self, safe_merge=False):
        """Merge the active adapters and return the plain model, with no trace of LoRA in it."""
        self._refuse_if_disabled("merging")
        if not self.base_model.merged:
            self.base_model.merge(safe_merge)
        return self.base_model.unload()

    def unload(self):
        """Return the plain base model, with any trained biases; the adapters are dropped."""
        self.base_model.without_adapters()
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

    def get_layer_status(self):
        """[LayerStatus]: for each adapted layer its adapters, ranks and scalings, and which are active or merged."""
        return layer_status(self)

    def __repr__(self):
        return format_status(self)

    def save_pretrained(self, directory, selected_adapters=None, as_plain_lora=False):
        """Write each adapter in PEFT's format: "default" into `directory`, others into folders of their names there.

        as_plain_lora: write PiSSA and OLoRA adapters for the unchanged base model; see `files.write_adapter`.
        """
        self._refuse_if_merged("saving")
        names = list(self.peft_config if selected_adapters is None else selected_adapters)
        for name in names:
            self._check_known(name)
        for name in names:
            write_adapter(self, name, directory, as_plain_lora)

    def load_adapter(self, directory, adapter_name, is_trainable=False):
        """Add the adapter saved in `directory` under a new name. With any error, the model is as it was."""
        self._check_new_name(adapter_name)
        self._refuse_change("loading an adapter")
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

    def _refuse_change(self, what):
        self._refuse_if_disabled(what)
        self._refuse_if_merged(what)

    def _refuse_if_disabled(self, what):
        if self.disabled:
            raise RuntimeError(f"{what} inside disable_adapter(): the block's end would undo it; do it outside")

    def _refuse_if_merged(self, what):
        if self.base_model.merged:
            names = ", ".join(self.base_model.merged)
            raise RuntimeError(f"{what} while {names} is merged into the weights: call unmerge_adapter() first")
