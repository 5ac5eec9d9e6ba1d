"""Which layers an adapter goes to: from `target_modules` to a list of names."""

import difflib
import re

from .. import nn

LINEAR = (nn.Linear, nn.Conv1D)
DEFAULT_TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}  # by the model's config.model_type
ALL_LINEAR = "all-linear"


def find_targets(model, target_modules):
    """The dotted names of the layers to adapt, in the model's order. ValueError if a target matches nothing.

    A list matches a layer by its whole name or by the end of it after a dot; a string must match the whole name as a
    regular expression; "all-linear" is every Linear and Conv1D but the output head.
    """
    if target_modules is None:
        target_modules = _default_targets(model)
    modules = {name: _unwrapped(module) for name, module in model.named_modules() if name}
    modules = {name: module for name, module in modules.items() if ".base_layer" not in name and ".lora_" not in name}
    linear = [name for name, module in modules.items() if isinstance(module, LINEAR)]
    if target_modules == ALL_LINEAR:
        return [name for name in linear if not _is_head(model, name)]
    if isinstance(target_modules, str):
        found = [name for name in modules if re.fullmatch(target_modules, name)]
        if not found:
            raise ValueError(_nothing_matches(target_modules, linear))
    else:
        for target in target_modules:
            if not any(_names(target, name) for name in modules):
                raise ValueError(_nothing_matches(target, linear))
        found = [name for name in modules if any(_names(target, name) for target in target_modules)]
    other = [name for name in found if name not in linear]
    if other:
        kinds = sorted({type(modules[name]).__name__ for name in other})
        raise ValueError(f"LoRA adapts Linear and Conv1D layers; {other[0]!r} is a {', '.join(kinds)}")
    return found


def _names(target, name):
    return name == target or name.endswith("." + target)


def _unwrapped(module):
    """The layer itself, also when it holds adapters already."""
    return getattr(module, "base_layer", module)


def _is_head(model, name):
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return head is not None and model.get_submodule(name) is head


def _default_targets(model):
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in DEFAULT_TARGETS:
        raise ValueError(f"no usual target_modules are known for a model of type {kind!r}: name them in the LoraConfig")
    return DEFAULT_TARGETS[kind]


def _nothing_matches(target, linear):
    """One sentence: the target, names that look like it, and the names that exist."""
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    close = difflib.get_close_matches(target, leaves, n=3, cutoff=0.5)
    if not close:  # names from another model, such as q_attn for GPT-2's joint c_attn, often share their ending
        close = [leaf for leaf in leaves if leaf.rpartition("_")[2] == target.rpartition("_")[2]]
    hint = f"; did you mean {', '.join(repr(name) for name in close)}?" if close else ""
    return f"target_modules: no layer matches {target!r}{hint} (layers that can be adapted end in: {', '.join(leaves)})"
