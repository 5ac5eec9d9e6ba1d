"""An adapter's numbers replaced by those of another one's file; the adapter and its Parameters stay where they are."""

import dataclasses
from typing import Any

from .. import nn
from ..autograd.random import random_seed
from .accepted import adapter_folder
from .config import LoraConfig
from .files import read_adapter
from .model_adapter import new_adapter, targeted
from .names import check_known
from .state import tuner_of
from .types import StrPath
from .variants.parameter import OnParameter
from .variants.tied import TiedLora
from .variants.tokens import TokenAdapter
from .written import PLAIN_START

ALIKE = ("peft_type", "use_rslora", "lora_dropout", "alpha_pattern", "use_dora")  # what PEFT wants to be the same
INSTEAD = "delete_adapter and load_adapter instead"


def hotswap_adapter(
    model: nn.Module, model_name_or_path: StrPath, adapter_name: str, torch_device: str | None = None, **kwargs: Any
) -> None:
    """Give the LoRA adapter `adapter_name` the numbers, ranks and settings of the one in a folder. It stays active.

    An adapted layer that the new one leaves out starts anew, so that it computes as its base; PEFT puts zeros there,
    with which DoRA's layer gives zeros too. ValueError if their settings differ in kind, as in PEFT, or while the
    adapter is merged; RuntimeError if the new one adapts layers that this one does not, or leaves out one that cannot
    start anew. In either case, or if the file is refused, nothing has changed. The config is the new one's, which also
    names the layers left out, so that it is saved as it is.
    """
    tuner = tuner_of(model)
    check_known(adapter_name, tuner.peft_config)
    if adapter_name in tuner.merged:
        raise ValueError(f"hotswap_adapter: {adapter_name} is merged into the weights; call unmerge_adapter() first")
    folder = adapter_folder("hotswap_adapter", model_name_or_path, kwargs, ("model_name_or_path", "adapter_name"))
    config, new = read_adapter(folder, tuner.model)
    before = tuner.peft_config[adapter_name]
    _check_alike(before, config, folder)
    old = tuner.adapter(adapter_name)
    _check_places(before, old, new, folder)
    config, adapters = _with_left_out(tuner.model, config, old, new, folder)
    config.inference_mode = before.inference_mode
    _swap(model, tuner, adapter_name, adapters, config)


def _check_alike(before, config, folder):
    for name in ALIKE:
        own, other = getattr(before, name, None), getattr(config, name, None)
        if own != other:
            raise ValueError(f"hotswap_adapter: {folder} has {name}={other!r}, and the adapter {own!r}")
    if type(config) is not LoraConfig or before.changes_base or config.changes_base:
        raise ValueError("hotswap_adapter is for LoRA adapters that leave the base weights alone, as PEFT's is")


def _check_places(before, old, new, folder):
    """RuntimeError if the new adapter has tensors where the old one has none, or trains weights of the model's own."""
    more = [name for name in new.adapters if name not in old.adapters]
    for name, adapter in new.adapters.items():
        own = old.adapters.get(name)
        more += [] if own is None or adapter.tensors().keys() == own.tensors().keys() else [name]
    if more or before.bias != "none" or old.copies or new.copies or new.biases or new.bases:
        what = f"adapts {more[0]} in another way" if more else "or the adapter has weights of the model's own"
        raise RuntimeError(f"hotswap_adapter: {folder} {what}: {INSTEAD}")


def _with_left_out(model, config, old, new, folder):
    """(config, {layer: Adapter}) of the new adapter, with new ones that change nothing where only the old one is."""
    new.fill()
    left_out = {name: adapter for name, adapter in old.adapters.items() if name not in new.adapters}
    odd = [name for name, a in left_out.items() if isinstance(a, OnParameter | TiedLora | TokenAdapter)]
    if odd:
        raise RuntimeError(f"hotswap_adapter: {folder} leaves out {odd[0]}, which cannot start anew: {INSTEAD}")
    if not left_out:
        return config, new.adapters
    changes = dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    changes |= {} if config.init_lora_weights == "mica" else PLAIN_START
    whole = dataclasses.replace(config, target_modules=[*targeted(new.adapters), *left_out], **changes)
    with random_seed(0):  # of other numbers that are drawn, none changes
        fresh = new_adapter(model, whole).adapters
    return whole, {name: new.adapters.get(name, adapter) for name, adapter in fresh.items()}


@nn.all_or_nothing
def _swap(model, tuner, name, adapters, config):
    """Put these {layer: Adapter} in place of those called `name`, whose Parameters they take over with new numbers."""
    for target, layer in tuner.adapted.items():
        if name in layer.adapters:
            old, new = layer.adapters[name], adapters[target]
            _take_over(new, old)
            layer.set_adapters({**layer.adapters, name: new.train(old.training)})
    tuner._list_layers()
    tuner.peft_config = {**tuner.peft_config, name: config}
    if "peft_config" in vars(model):  # there is no PeftModel: `inject_adapter_in_model`
        model.peft_config = tuner.peft_config


def _take_over(new, old):
    """Have the new adapter's numbers in the old one's Parameters, which an optimizer may know, and these in it."""
    trained = any(p.requires_grad for p in old.parameters())
    for key, p in old.tensors().items():
        held = new.tensors()[key]
        for module in new.modules():
            for attribute in [attribute for attribute, value in vars(module).items() if value is held]:
                setattr(module, attribute, p)
        p.data, p.grad = held.data, None
    if type(new) is not type(old):  # MiCA freezes one of them
        new.requires_grad_(trained)
