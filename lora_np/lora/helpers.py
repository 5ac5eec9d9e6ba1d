"""What PEFT's users call beside a PeftModel: before there is one, without one, and around a call of one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import nn
from ..autograd.float_types import in_16_bits
from ..expect import A_MODEL, expect
from .kinds import config_class, known, peft_type_of
from .layer import AdaptedLayer
from .peft_config import PeftConfig
from .peft_model import PeftModel
from .state import set_peft_model_state_dict, tuner_of
from .types import StrPath


@nn.all_or_nothing
def inject_adapter_in_model(
    peft_config: PeftConfig,
    model: Any,
    adapter_name: str = "default",
    low_cpu_mem_usage: bool = False,
    state_dict: Mapping[str, Any] | None = None,
) -> Any:
    """Put an adapter into `model`, in place, and return the model itself with no PeftModel around it.

    The adapter takes part and is trained; the rest is frozen, also adapters that were injected before. (PEFT leaves
    those without gradients, but marked as trained.) `model.peft_config` has the configurations, as in PEFT, for
    `get_peft_model_state_dict` and its like. state_dict: numbers for the adapter, without "base_model.model.".
    ValueError for a kind whose layers train tensors together: these have no place in the model.
    """
    kind = getattr(peft_config, "peft_type", None)
    if kind and any(one.in_common for one in known(kind)[1]):
        raise ValueError(
            f"the layers of a {kind} adapter train tensors together, which have no place in a model "
            "without a PeftModel around it: use get_peft_model(model, config)"
        )
    if isinstance(model, nn.Module) and isinstance(vars(model).get("peft_config"), dict):  # not the first
        around = PeftModel.around(tuner_of(model))
        around.add_adapter(adapter_name, peft_config)
        around.set_adapter(adapter_name, peft_config.inference_mode)
    else:
        around = PeftModel(model, peft_config, adapter_name)
    model.peft_config = around.peft_config
    if state_dict is not None:
        set_peft_model_state_dict(model, state_dict, adapter_name)
    return model


def prepare_model_for_kbit_training(
    model: Any,
    use_gradient_checkpointing: bool = True,
    gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
    auto_clear_cache: bool = True,
) -> Any:
    """Freeze `model`, have what is in 16 bits in float32, and checkpoint if it is in 4 bits; returns the model.

    Here a base in 4 bits is `nn.quantize_model(model)`; then this, then `get_peft_model`. That does the freezing too,
    and adapters are in float32 anyway: what this adds is gradient checkpointing. The last two keywords are PEFT's, and
    change nothing here.
    """
    expect(model, nn.Module, "model", A_MODEL)
    model.requires_grad_(False)
    if any(in_16_bits(p.dtype) for p in model.parameters()):
        model.to(dtype=np.float32)
    if use_gradient_checkpointing and any(isinstance(module, nn.FourBitLayer) for module in model.modules()):
        model.gradient_checkpointing_enable()
    return model


def cast_mixed_precision_params(model: nn.Module, dtype: Any) -> None:
    """Have what is frozen in `dtype`, and what is trained in float32."""
    expect(model, nn.Module, "model", A_MODEL)
    frozen = nn.float_type(dtype)
    for p in model.parameters():
        p.data = p.data.astype(np.float32 if p.requires_grad else frozen, copy=False)


def get_peft_config(config_dict: Mapping[str, Any]) -> PeftConfig:
    """The config of the kind that "peft_type" names, with these fields. TypeError for one that it does not have."""
    expect(config_dict, Mapping, "config_dict", "the fields of a config, with a peft_type")
    if "peft_type" not in config_dict:
        raise KeyError("config_dict has no peft_type: which kind of adapter is it?")
    return config_class(config_dict["peft_type"], "config_dict")(**config_dict)


def check_if_peft_model(model_name_or_path: StrPath) -> bool:
    """Is this the folder of an adapter, or the name of one on the Hugging Face hub?"""
    try:
        PeftConfig.from_pretrained(model_name_or_path)
    except (OSError, ValueError, TypeError, ImportError):
        return False
    return True


@contextmanager
def rescale_adapter_scale(model: nn.Module, multiplier: float) -> Iterator[None]:
    """Inside this block each LoRA or AdaLoRA adapter's scaling is `multiplier` times what it was. For one thread."""
    expect(model, nn.Module, "model", A_MODEL)
    if isinstance(multiplier, bool) or not isinstance(multiplier, (int, float)):
        raise TypeError(f"multiplier should be a number, got {multiplier!r}")
    layers = (module for module in model.modules() if isinstance(module, AdaptedLayer))
    held = [adapter for layer in layers for adapter in layer.adapters.values()]
    adapters = [a for a in held if peft_type_of(a) in ("LORA", "ADALORA") and a.lora_alpha is not None]  # not tokens
    if not adapters:
        raise ValueError(f"this {type(model).__name__} has no LoRA adapters whose scale could be changed")
    before = [adapter.scaling for adapter in adapters]
    try:
        try:
            _scale(adapters, [multiplier * scaling for scaling in before])
            yield
        finally:
            _scale(adapters, before)
    finally:
        _scale(adapters, before)  # once more: Ctrl-C may have come just before the line above


def _scale(adapters, scalings):
    for adapter, scaling in zip(adapters, scalings, strict=True):
        adapter.scaling = scaling
