"""All that can be seen of a PeftModel, as one dictionary of lines: what a failed call must leave as it was."""

import hashlib

from lora_np import nn
from lora_np.lora.layer import AdaptedLayer

TABLES = (nn.ModuleDict, nn.ParameterDict, nn.BufferDict)  # made anew whenever they are asked for


def bits(array):
    """A short name for exactly these numbers."""
    return hashlib.sha256(array.tobytes()).hexdigest()[:12]


def parameters(model):
    """{name: bits, dtype, shape and whether it is trained}."""
    return {
        name: f"{bits(p.data)} {p.dtype} {p.shape} trained={p.requires_grad}"
        for name, p in model.named_parameters(remove_duplicate=False)
    }


def identities(model):
    """{name: which object it is} of modules and Parameters."""
    found = {f"{name}:": id(module) for name, module in model.named_modules() if not isinstance(module, TABLES)}
    return found | {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}


def snapshot(model):
    """{what: how it is} of a PeftModel or a plain model: equal dictionaries mean that nothing can be told apart."""
    lines = parameters(model)
    for name, module in model.named_modules():
        lines[f"{name}:"] = f"{type(module).__name__}, training={module.training}"
        if isinstance(module, AdaptedLayer):
            lines[f"{name}: adapters"] = {
                adapter: f"{type(a).__name__}, scaling={a.scaling!r}" for adapter, a in module.adapters.items()
            }
            lines[f"{name}: active, merged"] = (list(module.active_adapters), list(module.merged_adapters))
    if hasattr(model, "peft_config"):
        lines |= {f"config of {name}": config.to_dict() for name, config in model.peft_config.items()}
        tuner = model.base_model
        lines["adapters"] = (list(model.peft_config), list(model.active_adapters), tuner.merged, tuner.is_disabled)
        lines["listed"] = ([n for n, _ in tuner.layers()], [n for n, _ in tuner.saved_modules()], list(tuner.shared))
        lines["whole"] = {name: list(module.active_adapters) for name, module in tuner.saved_modules()}
        model = tuner.model
    lines["model"] = (model.gradient_checkpointing, model.config.to_dict())
    return lines


def changes(before, after):
    """What differs between two snapshots, in words."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return "\n".join(f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys[:8])
