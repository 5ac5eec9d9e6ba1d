"""An adapter's numbers replaced by those of another one's file; the adapter and its Parameters stay where they are."""

from typing import Any

from .. import nn
from ..autograd.devices import array_module
from .accepted import adapter_folder
from .config import LoraConfig
from .files import read_adapter
from .names import check_known
from .state import tuner_of
from .types import StrPath

ALIKE = ("peft_type", "use_rslora", "lora_dropout", "alpha_pattern", "use_dora")  # what PEFT wants to be the same


def hotswap_adapter(
    model: nn.Module, model_name_or_path: StrPath, adapter_name: str, torch_device: str | None = None, **kwargs: Any
) -> None:
    """Give the LoRA adapter `adapter_name` the numbers, ranks and scalings of the one in a folder. It stays active.

    An adapted layer that the new one leaves out gets zeros. ValueError if their settings differ in kind, as in PEFT, or
    while the adapter is merged; RuntimeError if the new one adapts layers that this one does not. In either case, or
    if the file is refused, nothing has changed. The config is the new one's, so that it is saved as it is.
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
    _check_places(old, new, folder)
    new.fill()
    config.inference_mode = before.inference_mode
    _swap(model, tuner, adapter_name, old.adapters, new.adapters, config)


def _check_alike(before, config, folder):
    for name in ALIKE:
        own, other = getattr(before, name, None), getattr(config, name, None)
        if own != other:
            raise ValueError(f"hotswap_adapter: {folder} has {name}={other!r}, and the adapter {own!r}")
    if type(config) is not LoraConfig or before.changes_base or config.changes_base:
        raise ValueError("hotswap_adapter is for LoRA adapters that leave the base weights alone, as PEFT's is")


def _check_places(old, new, folder):
    """RuntimeError if the new adapter has tensors where the old one has none, or trains modules whole."""
    more = [name for name in new.adapters if name not in old.adapters]
    for name, adapter in new.adapters.items():
        own = old.adapters.get(name)
        more += [] if own is None or adapter.tensors().keys() == own.tensors().keys() else [name]
    if more or old.copies or new.copies or new.biases or new.bases:
        what = f"adapts {more[0]} in another way" if more else "or the adapter has weights of the model's own"
        raise RuntimeError(f"hotswap_adapter: {folder} {what}: delete_adapter and load_adapter instead")


@nn.all_or_nothing
def _swap(model, tuner, name, old, new, config):
    for target, adapter in old.items():
        other = new.get(target)
        for key, p in adapter.tensors().items():
            p.data = array_module(p.data).zeros_like(p.data) if other is None else other.tensors()[key].data
            p.grad = None
        if other is not None:
            adapter.r, adapter.lora_alpha, adapter.scaling = other.r, other.lora_alpha, other.scaling
            adapter.config = config
    tuner.peft_config = {**tuner.peft_config, name: config}
