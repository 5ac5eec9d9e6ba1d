"""PeftModel: a frozen model with adapters, under the names that PEFT's users know."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Self

from .. import nn
from ..autograd.tensor import is_grad_enabled
from ..expect import A_MODEL, expect
from ..refusals import refuses_here
from ..storage import together
from .config import PeftConfig, check_alpha
from .files import read_adapter, write_adapter
from .layer import AdaptedLayer
from .lora_model import LoraModel
from .model_adapter import ModelAdapter, new_adapter
from .row_calls import BASE, checked_rows, generating, in_rows
from .saved_modules import ModulesToSave
from .status import LayerStatus, format_status, layer_status
from .types import StrPath
from .weighted import combined

A_CONFIG = "a config, such as LoraConfig(r=8, target_modules=[...])"


@refuses_here
def get_peft_model(model: nn.Module, config: PeftConfig, adapter_name: str = "default") -> "PeftModel":
    """Freeze `model`, put an adapter beside each layer that `config` targets, and return it as a PeftModel.

    The model is changed in place: its targeted layers are wrapped. ValueError, with nothing changed, if a target
    matches no layer.
    """
    return PeftModel(model, config, adapter_name)


class PeftModel(nn.Module):
    """A model with named adapters. Calling it calls the model; the active adapters take part.

    base_model   the LoraModel that holds the model (`base_model.model`)
    peft_config  {adapter name: its PeftConfig}

    Several threads may call one model at once, generate, and use `disable_adapter` and `adapter_names`, while one of
    them trains: these belong to the call. The methods that change adapters, and train(), eval() and to(), are for one
    thread while no other one calls the model; see "Threads and processes" in the README.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str = "default",
        model_adapter: ModelAdapter | None = None,
    ) -> None:
        """model_adapter: the `ModelAdapter` that `config` means on `model`, where it is made already."""
        expect(model, nn.Module, "model", A_MODEL)
        expect(config, PeftConfig, "config", A_CONFIG)
        if any(isinstance(module, (PeftModel, AdaptedLayer, ModulesToSave)) for module in model.modules()):
            raise ValueError("this model has adapters already: use add_adapter(name, config) on its PeftModel")
        self.peft_config: dict[str, PeftConfig] = {}
        self.active_adapters: list[str] = []
        self._check_new_name(adapter_name)
        model_adapter = new_adapter(model, config) if model_adapter is None else model_adapter
        self._begin(model, adapter_name, config, model_adapter)

    @nn.all_or_nothing
    def _begin(self, model, name, config, model_adapter):
        self.base_model = LoraModel(model)
        self.training = model.training
        self._attach(name, config, model_adapter)
        self._activate([name])
        if config.inference_mode:  # for use, not for training
            self.requires_grad_(False)

    def forward(self, *args: Any, adapter_names: Iterable[str] | None = None, **kwargs: Any) -> Any:
        """Call the model with the active adapters.

        adapter_names: a name for each row of the batch, to use its own adapter for each; "__base__" stands for none.
        """
        if self.training and is_grad_enabled():
            self._refuse_if_merged("training")
        if adapter_names is None:
            return self.base_model.model(*args, **kwargs)
        ids = kwargs.get("input_ids", args[0] if args else None)
        names = checked_rows(self, adapter_names, 0 if ids is None else len(ids))
        with in_rows(self, names):
            return self.base_model(*args, **kwargs)

    def _warn_of_missing_parts(self):
        for name, config in self.peft_config.items():
            if config.changes_base and name not in self.active_adapters:
                warnings.warn(
                    f"{name} is inactive, and its initialisation took a part out of the base weights (PiSSA, OLoRA): "
                    f"until set_adapter({name!r}) or delete_adapter({name!r}) the model lacks that part",
                    stacklevel=3,
                )

    @property
    def config(self) -> Any:
        """The base model's configuration."""
        return self.base_model.model.config

    def get_base_model(self) -> Any:
        """The model itself, its targeted layers still wrapped."""
        return self.base_model.model

    def gradient_checkpointing_enable(self) -> None:
        """Keep only the input of each block for the backward pass; see the base model's method."""
        self.base_model.model.gradient_checkpointing_enable()

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the backward pass needs, as usual."""
        self.base_model.model.gradient_checkpointing_disable()

    def generate(self, *inputs: Any, adapter_names: Iterable[str] | None = None, **options: Any) -> Any:
        """Continue ids with the active adapters, or with those that adapter_names lists, one for each row; see the base
        model's generate."""
        return self.base_model.model.generate(*inputs, **generating(self, adapter_names, options))

    def stream(self, *inputs: Any, adapter_names: Iterable[str] | None = None, **options: Any) -> Any:
        """As `generate`, token by token; see the base model's stream."""
        return self.base_model.model.stream(*inputs, **generating(self, adapter_names, options))

    def add_adapter(self, adapter_name: str, config: PeftConfig) -> None:
        """Add an adapter beside those that are there. It is inactive until `set_adapter`.

        PiSSA and OLoRA take a part out of the base weights at once, which is missing while the adapter is inactive.
        """
        expect(config, PeftConfig, "config", A_CONFIG)
        self._refuse_change("adding an adapter")
        self._check_new_name(adapter_name)
        self._check_beside(config)
        self._attach(adapter_name, config, new_adapter(self.base_model.model, config, self._beside()))
        self._warn_of_missing_parts()

    @nn.all_or_nothing
    def _attach(self, name, config, model_adapter):
        self.base_model.attach(name, model_adapter)
        if config.base_model_name_or_path is None:
            own = getattr(self.base_model.model, "config", None)
            config.base_model_name_or_path = getattr(own, "name_or_path", None)
        self.peft_config = {**self.peft_config, name: config}

    def _beside(self):
        return self.base_model.adapted, self.base_model.saved

    def _check_beside(self, config):
        """ValueError if such an adapter cannot be beside those that are there."""
        configs = [*self.peft_config.values(), config]
        if len(configs) > 1 and any(c.bias != "none" for c in configs):
            raise ValueError("adapters that train biases change the base model: only one adapter at a time can do that")
        if len({c.peft_type for c in configs}) > 1:
            raise ValueError(f"one model takes adapters of one kind: {config.peft_type} beside {configs[0].peft_type}")

    def _check_new_name(self, name):
        if name in self.peft_config:
            raise ValueError(f"there is an adapter {name!r} already: choose another name, or delete_adapter it first")
        if not name or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"an adapter's name is made of letters, digits and _, no digit first, and is no method's: not {name!r}"
            )
        if name == BASE:
            raise ValueError(f"{BASE!r} stands for the model without an adapter: choose another name")

    def set_adapter(self, adapter_name: str | Iterable[str]) -> None:
        """Make one adapter, or a list of them, active and trainable; the others become inactive."""
        names = self._names(adapter_name)
        self._refuse_change("switching adapters")
        self._check_one_copy(names)
        self._activate(names)
        self._warn_of_missing_parts()

    @nn.all_or_nothing
    def _activate(self, names):
        self.active_adapters = names
        kinds = {self.peft_config[name].bias for name in names}
        self.base_model.set_adapter(names, [p for kind in kinds for p in self.base_model.biases(kind).values()])

    @nn.all_or_nothing
    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter. If it was the only active one, the first of the others becomes active."""
        self._check_known(adapter_name)
        self._refuse_change("deleting an adapter")
        self.base_model.delete_adapter(adapter_name)
        self.peft_config = {name: config for name, config in self.peft_config.items() if name != adapter_name}
        if adapter_name in self.active_adapters:
            left = [name for name in self.active_adapters if name != adapter_name]
            self._activate(left or list(self.peft_config)[:1])

    @nn.all_or_nothing
    def rename_adapter(self, old: str, new: str) -> None:
        """Give an adapter another name; it stays active if it was."""
        self._check_known(old)
        self._check_new_name(new)
        self._refuse_change("renaming an adapter")
        self.base_model.rename_adapter(old, new)
        self.peft_config = {new if name == old else name: config for name, config in self.peft_config.items()}
        self.active_adapters = [new if name == old else name for name in self.active_adapters]

    @nn.all_or_nothing
    def set_scale(self, adapter_name: str, scale: float) -> None:
        """Set an adapter's scaling to `scale` times the configured one. It is not saved: files hold lora_alpha.

        0 leaves s·B A out; DoRA's magnitudes still act, and what PiSSA took out of the base stays out.
        """
        check_alpha("scale", scale)
        self._check_known(adapter_name)
        self._refuse_change("rescaling an adapter")
        for adapter in self.base_model.adapter(adapter_name).adapters.values():
            adapter.rescale(scale)

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        **options: Any,
    ) -> None:
        """Add an adapter that combines others; see `combine.combine` for the kinds and their options.

        Its scaling is 1 in every layer (lora_alpha = r, or √r with use_rslora). A layer that has only some of the
        adapters combines those. Only plain LoRA on linear layers can be combined.
        """
        for name in adapters:
            self._check_known(name)
        self._check_new_name(adapter_name)
        self._refuse_change("combining adapters")
        names, kind = list(adapters), combination_type
        config, arrays = combined(self.base_model, self.peft_config, names, list(weights), kind, options)
        self._check_beside(config)
        model_adapter = new_adapter(self.base_model.model, config, self._beside())
        model_adapter.incoming = arrays
        self._attach(adapter_name, config, model_adapter)

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Inside this block the model is the base model, also if adapters are merged. Trained biases stay in it.

        Merging, adding, deleting, renaming and switching adapters have to wait until the block ends.
        """
        return self.base_model.disabled()

    def merge_adapter(self, adapter_names: Iterable[str] | None = None, safe_merge: bool = False) -> None:
        """Add the ΔW of these adapters (None: the active ones) to the weights: same results at the base's cost.

        Until `unmerge_adapter` a layer that has any of these computes with just these; the others go on with their
        active adapters, as in PEFT. Errors: `LoraModel.merge`; KeyError if there is no such adapter.
        """
        self._refuse_if_disabled("merging")
        names = self._names(adapter_names)
        self._check_one_copy(names or [])
        self.base_model.merge(safe_merge, names)

    def untie_weights(self) -> None:
        """Give each adapted layer that shares its weight (a tied head) a copy of its own, so that it can be merged."""
        self.base_model.untie_weights()

    def unmerge_adapter(self) -> None:
        """Undo `merge_adapter`, bit for bit. Nothing happens if nothing is merged."""
        self._refuse_if_disabled("unmerging")
        self.base_model.unmerge()

    @nn.all_or_nothing
    def merge_and_unload(self, safe_merge: bool = False, adapter_names: Iterable[str] | None = None) -> Any:
        """Merge these adapters (None: the active ones) and return the plain model, with no trace of LoRA in it.

        Where adapters are merged already, they are what is meant by None; with other names, RuntimeError.
        """
        self._refuse_if_disabled("merging")
        names = self._names(adapter_names)
        self._check_one_copy(names or [])
        if names is not None or not self.base_model.merged:
            self.base_model.merge(safe_merge, names)
        return self.base_model.unload(names or self.base_model.merged or None)

    @nn.all_or_nothing
    def unload(self) -> Any:
        """Return the plain base model, with any trained biases; the adapters are dropped."""
        self.base_model.forget_adapters()
        return self.base_model.unload()

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all): how many numbers are trained, and how many there are, adapters included."""
        return self.num_parameters(only_trainable=True), self.num_parameters()

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, in PEFT's line."""
        trainable, total = self.get_nb_trainable_parameters()
        percent = 100 * trainable / total
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {percent:.4f}")

    def get_layer_status(self) -> list[LayerStatus]:
        """For each adapted layer its adapters, their ranks and scalings, and which are active or merged."""
        return layer_status(self)

    def __repr__(self) -> str:
        return format_status(self)

    def save_pretrained(
        self, directory: StrPath, selected_adapters: Iterable[str] | None = None, as_plain_lora: bool = False
    ) -> None:
        """Write adapters in PEFT's format: "default" into `directory`, each other into the folder of its name there.

        selected_adapters   the names of those to write; None for all
        as_plain_lora       write PiSSA and OLoRA adapters for the unchanged base model; see `files.write_adapter`
        """
        self._refuse_if_merged("saving")
        names = list(self.peft_config if selected_adapters is None else selected_adapters)
        for name in names:
            self._check_known(name)
        with together(directory):
            for name in names:
                write_adapter(self, name, directory, as_plain_lora)

    def load_adapter(self, directory: StrPath, adapter_name: str, is_trainable: bool = False) -> None:
        """Add the adapter saved in `directory` under a new name, inactive. With any error, the model is as it was."""
        self._check_new_name(adapter_name)
        self._refuse_change("loading an adapter")
        config, model_adapter = read_adapter(directory, self.base_model.model, is_trainable, self._beside())
        self._check_beside(config)
        self._attach(adapter_name, config, model_adapter)
        self._warn_of_missing_parts()

    @classmethod
    def from_pretrained(
        cls, model: nn.Module, directory: StrPath, adapter_name: str = "default", is_trainable: bool = False
    ) -> Self:
        """`model` with the adapter that this library or PEFT saved in `directory`.

        With any error, `model` is as it was. Frozen, for use and not for training, unless `is_trainable`.
        """
        expect(model, nn.Module, "model", A_MODEL)
        config, model_adapter = read_adapter(directory, model, is_trainable)
        return cls(model, config, adapter_name, model_adapter)

    def _names(self, given):
        """One name or several as a list without repeats, None as None; KeyError if there is no such adapter."""
        if given is None:
            return None
        if isinstance(given, bool):
            raise TypeError(f"names of adapters were expected, not {given}: write safe_merge={given}")
        names = [given] if isinstance(given, str) else list(dict.fromkeys(given))
        for name in names:
            self._check_known(name)
        return names

    def _check_one_copy(self, names):
        """ValueError if two of these adapters train one module whole: only one copy of it can be in use."""
        for target, module in self.base_model.saved_modules():
            owners = [name for name in names if name in module.modules_to_save]
            if len(owners) > 1:
                raise ValueError(f"{' and '.join(owners)} each train {target} whole: only one of them can be active")

    def _check_known(self, name):
        if name not in self.peft_config:
            raise KeyError(f"no adapter {name!r}; there are {', '.join(map(repr, self.peft_config)) or 'none'}")

    def _refuse_change(self, what):
        self._refuse_if_disabled(what)
        self._refuse_if_merged(what)

    def _refuse_if_disabled(self, what):
        if self.base_model.is_disabled:
            raise RuntimeError(f"{what} inside disable_adapter(): the block's end would undo it; do it outside")

    def _refuse_if_merged(self, what):
        merged = ", ".join(self.base_model.merged)
        if merged:
            raise RuntimeError(f"{what} while {merged} is merged into the weights: call unmerge_adapter() first")
