"""Which layers an adapter goes to: from `target_modules` to a list of names."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .. import nn
from ..refusals import warn
from .kinds import is_adaptable
from .layer import AdaptedLayer
from .patterns import BLOCK, unmatched
from .peft_config import PeftConfig, TaskType
from .saved_modules import ModulesToSave
from .tied_heads import TiedHead

HEADS = {TaskType.SEQ_CLS: ("classifier", "score")}  # what an adapter for a task trains whole, where it is there
EMBEDDINGS = ("embed_tokens", "lm_head")  # the names by which PEFT knows an embedding and its head, GPT-2's not
LINEAR = (nn.Linear, nn.Conv1D, nn.FourBitLayer)
QUERIES_AND_VALUES = ["q_proj", "v_proj"]
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
OTHERS = {"gpt2": ["c_attn"], "gpt_neox": ["query_key_value"]}
DEFAULT_TARGETS = {**OTHERS, **dict.fromkeys(LIKE_LLAMA, QUERIES_AND_VALUES)}  # by model_type, as in PEFT
ALL_LINEAR = "all-linear"


def find_targets(
    model: nn.Module,
    target_modules: list[str] | str | None = None,
    exclude_modules: list[str] | str | None = None,
    layers_to_transform: list[int] | int | None = None,
    layers_pattern: list[str] | str | None = None,
    modules: Mapping[str, Any] | None = None,
) -> list[str]:
    """The dotted names of the layers to adapt, in the model's order. ValueError if a target matches nothing.

    A list matches a layer by its whole name or by the end of it after a dot; a string must match the whole name as a
    regular expression; "all-linear" is every linear layer but the output head. exclude_modules takes layers away again,
    by the same rules; layers_to_transform keeps only those in blocks of these numbers, and those named whole.

    A part of a joint projection has its own name behind the projection's: "transformer.h.0.attn.c_attn.q".
    modules: the model's `own_modules`, where they are known already.
    """
    if target_modules is None:
        target_modules = _default_targets(model)
    modules = own_modules(model) if modules is None else modules
    linear = [name for name, module in modules.items() if isinstance(module, LINEAR)]
    if is_shorthand(target_modules):
        head = unwrapped(getattr(model, "get_output_embeddings", lambda: None)())
        found = [name for name in linear if modules[name] is not head]
    else:
        parts = part_names(modules) if isinstance(target_modules, list) else []
        found = match_names(target_modules, [*modules, *parts], linear)
    found = [name for name in found if not _excluded(exclude_modules, name)]
    exact = target_modules if isinstance(target_modules, list) else []
    found = [name for name in found if name in exact or _in_layers(name, layers_to_transform, layers_pattern)]
    if not found:
        raise ValueError("exclude_modules and layers_to_transform leave none of the target_modules to adapt")
    other = [name for name in found if name in modules and not is_adaptable(modules[name])]
    if other:
        kinds = sorted({type(modules[name]).__name__ for name in other})
        raise ValueError(f"LoRA adapts linear layers and embeddings; {other[0]!r} is a {', '.join(kinds)}")
    return found


def targets_of(
    model: nn.Module, config: PeftConfig, modules: Mapping[str, Any] | None = None
) -> dict[str, tuple[str, ...]]:
    """{layer's name: names of its parts}: what a config adapts. There are no parts where the whole layer is adapted."""
    modules = own_modules(model) if modules is None else modules
    blocks = config.layers_to_transform, config.layers_pattern
    if not config.target_modules and _only_parameters(model, config):
        return {}
    found = find_targets(model, config.target_modules, config.exclude_modules, *blocks, modules)
    if config.ensure_weight_tying:
        found += [name for pair in tied_targets(config, modules).items() for name in pair if name not in found]
    whole = config.modules_to_save
    free = [name for name in found if not any(f".{part}." in f".{name}." for part in whole)] if whole else found
    if not free:
        raise ValueError(
            f"modules_to_save trains {', '.join(found[:3])}{', ...' if found[3:] else ''} whole, and target_modules "
            "names nothing else: choose one"
        )
    layers: dict[str, list[str]] = {}
    for name in free:
        layer, _, part = (name, "", "") if name in modules else name.rpartition(".")
        layers.setdefault(layer, []).append(part)
    for layer, parts in layers.items():
        if "" in parts and len(parts) > 1:
            raise ValueError(f"target_modules names {layer!r} both as a whole and by its parts: choose one")
    return {layer: tuple(part for part in parts if part) for layer, parts in layers.items()}


def saved_modules_of(modules: Mapping[str, Any], config: PeftConfig) -> list[str]:
    """The dotted names of the modules that `config.modules_to_save` means, none inside another. modules: the model's.

    A name means all modules whose names end so, with or without a dot before it, as in PEFT: "norm" is also
    "input_layernorm". ValueError if it means none.
    """
    found: list[str] = []
    for ending in config.modules_to_save or ():
        matches = [name for name in modules if name.endswith(ending)]
        if not matches and not has_head(config, modules, ending):
            raise ValueError(_nothing_matches(ending, modules, "modules_to_save: no module"))
        found += matches
    if config.ensure_weight_tying:
        found += [name for pair in tied_copies(config, modules).items() for name in pair if name not in found]
    for name in found:
        if isinstance(modules[name], (nn.ModuleList, nn.ModuleDict)):
            raise ValueError(f"modules_to_save: {name} is a list of modules, which cannot be called: name those in it")
        if any(isinstance(part, nn.FourBitLayer) for part in modules[name].modules()):
            raise ValueError(
                f"modules_to_save: {name} is in 4 bits, which cannot be trained: leave it out of them, "
                f"quantize_model(model, skip=[{name.rpartition('.')[2]!r}, ...])"
            )
    chosen = set(found)
    if not chosen:
        return []
    return [name for name in modules if name in chosen and not any(outer in chosen for outer in _outer(name))]


def tied_pairs(modules: Mapping[str, Any]) -> dict[str, str]:
    """{head: embedding}, by name: the linear layers whose weight is an embedding's."""
    embeddings = {id(m.weight): name for name, m in modules.items() if isinstance(m, nn.Embedding)}
    linear = {name: m for name, m in modules.items() if type(m) is nn.Linear}
    return {name: embeddings[id(m.weight)] for name, m in linear.items() if id(m.weight) in embeddings}


def tied_copies(config: PeftConfig, modules: Mapping[str, Any]) -> dict[str, str]:
    """The `tied_pairs` that are trained whole as one, by `ensure_weight_tying`."""
    ensured = config.ensure_weight_tying and _names_embedding(config.modules_to_save)
    return tied_pairs(modules) if ensured else {}


def tied_targets(config: PeftConfig, modules: Mapping[str, Any]) -> dict[str, str]:
    """The `tied_pairs` that are adapted as one, by `ensure_weight_tying`."""
    ensured = config.ensure_weight_tying and _names_embedding(config.target_modules)
    return tied_pairs(modules) if ensured and not _names_embedding(config.modules_to_save) else {}


def _names_embedding(given):
    """Does a setting name what PEFT takes to be an embedding or its head? That decides what its files hold."""
    if isinstance(given, str):
        return any(re.fullmatch(given, name) for name in EMBEDDINGS)
    return any(name.rpartition(".")[2] in EMBEDDINGS for name in given or ())


def has_head(config: PeftConfig, modules: Iterable[str], name: str | None = None) -> bool:
    """Has a model with these modules a head for the config's task? name: and is this one of the names for heads?"""
    names = HEADS.get(config.task_type, ())  # type: ignore[call-overload]
    return (name is None or name in names) and any(module.endswith(head) for head in names for module in modules)


def train_heads(config: PeftConfig, modules: Iterable[str]) -> None:
    """Have the config name the heads for its task in modules_to_save, as PEFT does: the one that is there is new."""
    if has_head(config, modules):
        saved = config.modules_to_save or []
        heads = HEADS[config.task_type]  # type: ignore[index]
        config.modules_to_save = [*saved, *(name for name in heads if name not in saved)]


def _outer(name):
    """The dotted names of the modules around this one."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def warn_of_unused(config: PeftConfig, modules: Mapping[str, Any], targets: Collection[str]) -> None:
    """Warn of entries in patterns that match no layer of `targets`, and of names to leave out that are no module's.

    modules: the model's own; targets: the names of those that get an adapter.
    """
    for field in config.patterns:
        patterns = getattr(config, field, None)
        unused = unmatched(patterns, targets) if patterns else []
        if unused:
            warn(f"{field} has entries that match no adapted layer: {', '.join(unused)}")
    if config.ensure_weight_tying and not tied_pairs(modules):
        warn("ensure_weight_tying: this model has no head that is tied to an embedding")
    elif config.ensure_weight_tying and not any(
        (tied_targets(config, modules), tied_copies(config, modules), config.trainable_token_indices)
    ):
        warn(f"ensure_weight_tying: target_modules and modules_to_save name none of {', '.join(EMBEDDINGS)}")
    left_out = config.exclude_modules
    if not left_out:
        return
    entries = [left_out] if isinstance(left_out, str) else [[name] for name in left_out]
    names = [*modules, *part_names(modules)]
    unused = ["".join(entry) for entry in entries if not any(_excluded(entry, name) for name in names)]
    if unused:
        warn(f"exclude_modules has entries that match no module: {', '.join(unused)}")


def part_names(modules: Mapping[str, Any]) -> list[str]:
    """The dotted names of the parts of joint projections: "transformer.h.0.attn.c_attn.q"."""
    return [f"{name}.{part}" for name, module in modules.items() if isinstance(module, LINEAR) for part in module.parts]


def biases_of(
    modules: Mapping[str, nn.Module], kind: str, adapted: Collection[str], saved: Iterable[str]
) -> dict[str, nn.Parameter]:
    """{name: Parameter} of the biases that a config with `bias=kind` trains.

    modules: the model's own; adapted, saved: the names of those with an adapter, and of those that are trained whole.
    The bias of an adapted layer has the name that it gets there: "c_attn.base_layer.bias".
    """
    found = {}
    for name, module in modules.items() if kind != "none" else ():
        bias = vars(module).get("bias")
        whole = any(f"{name}.".startswith(f"{other}.") for other in saved)
        if isinstance(bias, nn.Parameter) and not whole and (kind == "all" or name in adapted):
            found[f"{name}.base_layer.bias" if name in adapted else f"{name}.bias"] = bias
    return found


def own_modules(model: nn.Module) -> dict[str, Any]:
    """{dotted name: module} of the model as it was before any adapter."""
    found: dict[str, Any] = {}
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        prefix, module = stack.pop()
        if prefix:
            found[prefix] = module
        for name, child in reversed(module.named_children()):
            stack.append((f"{prefix}.{name}" if prefix else name, unwrapped(child)))
    return found


def unwrapped(module: Any) -> Any:
    """The module that was in this place before any adapter."""
    if isinstance(module, AdaptedLayer):
        return module.base_layer
    if isinstance(module, TiedHead):
        return module.base_layer
    return module.original_module if isinstance(module, ModulesToSave) else module


def _excluded(exclude_modules, name):
    if not exclude_modules:
        return False
    if isinstance(exclude_modules, str):
        return re.fullmatch(exclude_modules, name) is not None
    return any(ends_with([name], target) for target in exclude_modules)


def _in_layers(name, layers_to_transform, layers_pattern):
    """Is the layer in one of these blocks? Its block is the first number in its name, or the first behind a pattern."""
    if layers_to_transform is None or layers_to_transform == []:
        return True
    wanted = [layers_to_transform] if isinstance(layers_to_transform, int) else layers_to_transform
    patterns = [layers_pattern] if isinstance(layers_pattern, str) else layers_pattern or []
    found = (re.match(BLOCK.format(pattern), name) for pattern in (patterns if any(patterns) else [r"[^.]*"]))
    return any(match is not None and int(match["idx"]) in wanted for match in found)


def match_names(target_modules: Sequence[str], names: Collection[str], layers: Collection[str]) -> list[str]:
    """Those of `names` that a list of targets, or a regular expression in one string, means; in the order of `names`.

    ValueError if a target matches nothing. It suggests names of `layers`, those that can be adapted.
    """
    if isinstance(target_modules, str):
        found = [name for name in names if re.fullmatch(target_modules, name)]
        if not found:
            raise ValueError(_nothing_matches(target_modules, layers))
        return found
    matches = set()
    for target in target_modules:
        found = ends_with(names, target)
        if not found:
            raise ValueError(_nothing_matches(target, layers))
        matches.update(found)
    return [name for name in names if name in matches]


def ends_with(names, target):
    """Those of the dotted names that are `target` or end in it after a dot."""
    return [name for name in names if f".{name}".endswith(f".{target}")]


def is_shorthand(target_modules: Any) -> bool:
    """Is this a word for layers that depend on the model, and no name: "all-linear", or None for the usual ones?"""
    return target_modules is None or (isinstance(target_modules, str) and target_modules.lower() == ALL_LINEAR)


def _only_parameters(model, config):
    """Are there only target_parameters? As in PEFT, the usual target_modules join them where the model has some."""
    return bool(config.target_parameters) and (config.target_modules == [] or _model_type(model) not in DEFAULT_TARGETS)


def _default_targets(model):
    return default_targets(_model_type(model))


def _model_type(model):
    return getattr(getattr(model, "config", None), "model_type", None)


def default_targets(kind: str | None) -> list[str]:
    """The usual targets for a config's model_type; ValueError if there are none."""
    if kind not in DEFAULT_TARGETS:
        raise ValueError(f"no usual target_modules are known for a model of type {kind!r}: name them in the LoraConfig")
    return DEFAULT_TARGETS[kind]


def _nothing_matches(target, linear, what="target_modules: no layer"):
    """One sentence: the target, names that look like it, and the names that exist."""
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    close = difflib.get_close_matches(target, leaves, n=3, cutoff=0.5)
    if not close:  # names from another model, such as q_attn for GPT-2's joint c_attn, often share their ending
        close = [leaf for leaf in leaves if leaf.rpartition("_")[2] == target.rpartition("_")[2]]
    hint = f"; did you mean {', '.join(repr(name) for name in close)}?" if close else ""
    return f"{what} matches {target!r}{hint} (layers that can be adapted end in: {', '.join(leaves)})"
