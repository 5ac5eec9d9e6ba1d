"""What is in an adapter's file, brought to the names and modules of the model that it is loaded into.

PEFT's files hold more than A and B, and tell of models that are not quite this one. Here is what is done about it:

- Names with PEFT's prefix missing or twice, with the adapter's name in them, or with what torch.compile puts there
  become the plain ones.
- Names in target_modules or modules_to_save that the model lacks are left out, with a warning.
- Plain weights beside the adapter, such as a resized embedding's: where they are the model's own they are dropped;
  others become copies that belong to the adapter, as those of modules_to_save do.
- The base weight of an adapted head or embedding is the model's, but for rounding: where it was rounded, the file's
  takes its place, with a warning.
- An adapter that is tied to that of the embedding becomes one of its own, with the same numbers, unless the
  configuration ties them here too (`ensure_weight_tying`).
"""

import dataclasses
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..autograd.devices import to_numpy
from .model_adapter import BASE_WEIGHT, PREFIX
from .peft_config import PeftConfig
from .replication import replicated
from .targets import (
    biases_of,
    ends_with,
    has_head,
    own_modules,
    part_names,
    saved_modules_of,
    targets_of,
    tied_targets,
    train_heads,
)
from .types import Array, Config
from .variants.parameter import parameter_targets
from .variants.tokens import token_targets

ORIGINALS = ("original_module", "modules_to_save")  # behind a module's name: what PEFT has inside it beside a copy
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.")  # of torch.compile and FSDP
ONE_BASE = 1 / 16  # two weights are of one base model if most of their rows differ by less, relative to their length


class Stored(NamedTuple):
    """An adapter's file, as it fits a model.

    config  the configuration, with the names that the model has
    arrays  {name in the file, in its plain form: array}
    bases   {name: Parameter} of the model's weights that the file has others for; their arrays are among `arrays`
    """

    config: PeftConfig
    arrays: dict[str, Array]
    bases: dict[str, nn.Parameter]


def fitted(config: Config, arrays: Mapping[str, Array], model: nn.Module, path: Path) -> Stored:
    """The file `path`, with this configuration and these arrays, as it fits `model`; see the top of this module.

    Nothing is changed. ValueError, with the file's name, if it was trained on another base model.
    """
    config, model = config.as_stored(arrays), replicated(model, config)
    modules = own_modules(model)
    config.settle(model)
    train_heads(config, modules)
    found = {}
    for key, array in arrays.items():
        plain = _plain_name(key, modules)
        if plain in found:
            raise ValueError(f"{path} has two tensors for {plain}")
        found[plain] = array
    found = _without_originals(found, modules)
    config, found = _without_missing(config, found, modules, path)
    config = _with_tied(config, found, model, modules)
    followers = tuple(f"{PREFIX}{head}.lora_" for head in tied_targets(config, modules))
    found = {key: array for key, array in found.items() if not key.startswith(followers)}  # the embedding's, transposed
    wanted = targets_of(model, config, modules)
    adapted = [*wanted, *token_targets(model, config, modules), *parameter_targets(config, modules, wanted)]
    saved = saved_modules_of(modules, config)
    bases = _bases(config, found, modules, adapted, path)
    biases = biases_of(modules, config.bias, adapted, saved)
    whole = _whole(found, modules, biases, tuple(f"{name}." for name in (*adapted, *saved)))
    if whole:
        what = f"{path} has its own weights of {', '.join(whole)}"
        warnings.warn(f"{what}: they are used beside the adapter, as if modules_to_save named them", stacklevel=4)
        config = dataclasses.replace(config, modules_to_save=[*(config.modules_to_save or ()), *whole])
    return Stored(config, found, bases)


def without_names(arrays: Mapping[str, Array], expected: Iterable[str]) -> dict[str, Array]:
    """The arrays, with the adapter's own name taken out of names in which it still stands: lora_A.default.weight.

    What all layers share may be there once more for each of them, as PEFT writes RandLoRA's bases: that is left out.
    """
    expected, found = set(expected), dict(arrays)
    for key in [key for key in found if key not in expected]:
        parts = key.split(".")
        for shorter in ([*parts[:-2], parts[-1]], parts[:-1], parts[:-2]):
            plain = ".".join(shorter)
            if plain in expected and (plain not in found or np.array_equal(found[plain], found[key])):
                found[plain] = found.pop(key)
                break
    return {key: array for key, array in found.items() if key in expected or not _is_repeated(key, found, expected)}


def _is_repeated(key, arrays, expected):
    """Is this array the same as one that all layers share?"""
    shared = f"base_model.{key.rpartition('.')[2]}"
    return shared in expected and shared in arrays and np.array_equal(arrays[shared], arrays[key])


def _plain_name(key, modules):
    """A name in a file with PEFT's prefix once, and without what wrappers put in; unchanged if no module has it, or if
    all layers share it (base_model.vera_A)."""
    plain = key
    for wrapper in WRAPPERS:
        plain = plain.replace(wrapper, "")
    plain = plain.replace(".token_adapter.base_layer.", ".base_layer.")
    while plain.startswith(PREFIX):
        plain = plain.removeprefix(PREFIX)
    shared = re.fullmatch(r"base_model\.\w+(\.\d+)?", plain)
    return PREFIX + plain if _split(plain, modules)[0] and not shared else key


def _split(name, modules):
    """(the longest beginning that is a module's name, the rest) of a dotted name; ("", name) if there is none."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:i]) in modules:
            return ".".join(parts[:i]), ".".join(parts[i:])
    return "", name


def _without_missing(config, arrays, modules, path):
    """The config without names that the model lacks, and the arrays without those of such modules; with a warning.

    If it lacks all of the targets, they stay, and looking for them will say so.
    """
    targets, saved = config.target_modules, config.modules_to_save or []
    names = [*modules, *part_names(modules)]
    missing = [] if isinstance(targets, str) else [name for name in targets or () if not ends_with(names, name)]
    if len(missing) == len(targets or ()):
        missing = []
    heads = [name for name in saved if not any(module.endswith(name) for module in modules)]
    heads = [name for name in heads if not has_head(config, modules, name)]
    if missing or heads:
        names = ", ".join([*missing, *heads])
        warnings.warn(f"{path} was made for a model that has {names} too: left out", stacklevel=5)
        left = {"modules_to_save": [name for name in saved if name not in heads] or None}
        if missing:
            left["target_modules"] = [name for name in targets if name not in missing]
        config = dataclasses.replace(config, **left)
    return config, {key: a for key, a in arrays.items() if not any(f".{head}." in f".{key}" for head in heads)}


def _with_tied(config, arrays, model, modules):
    """The config with those modules as targets too that share the weight of a target and have tensors of their own.

    PEFT's `ensure_weight_tying` makes such ones: A and B of a tied head are B and A of the embedding, transposed.
    """
    adapted = targets_of(model, config, modules)
    own = {name: vars(module).get("weight") for name, module in modules.items()}
    shared = [own[name] for name in adapted if own[name] is not None]
    tied = [name for name, w in own.items() if name not in adapted and any(w is other for other in shared)]
    if not tied:
        return config
    places = [_split(key.removeprefix(PREFIX), modules) for key in arrays]
    given = {name for name, rest in places if name in tied and not _is_plain(modules[name], rest)}
    if not given:
        return config
    filters = {name for name in ("exclude_modules", "layers_to_transform", "layers_pattern") if getattr(config, name)}
    return dataclasses.replace(config, target_modules=[*adapted, *given], **dict.fromkeys(filters))


def _is_plain(module, rest):
    """Is `rest` the name of one of the module's own parameters, or of what PEFT writes of the base?"""
    first = rest.partition(".")[0]
    return isinstance(vars(module).get(rest), nn.Parameter) or first in ("base_layer", *ORIGINALS)


def _without_originals(arrays, modules):
    """The arrays without what PEFT writes of the module that a trained copy replaces, and writes of the copy twice.

    lm_head.modules_to_save.default.weight is lm_head.weight, the copy's. If both are there, for a copy inside a copy,
    it is the one that PEFT computes with.
    """
    found, inner = dict(arrays), {}
    for key in arrays:
        name, rest = _split(key.removeprefix(PREFIX), modules)
        part, _, last = rest.partition(".")
        if name and part in ORIGINALS:
            inner[key] = f"{PREFIX}{name}.{last}", f"{PREFIX}{name}.{last.partition('.')[2]}"
            if part == "modules_to_save" and inner[key][0] not in arrays:
                found[inner[key][1]] = arrays[key]
    return {key: array for key, array in found.items() if not any(plain in found for plain in inner.get(key, ()))}


def _bases(config, arrays, modules, adapted, path):
    """{name: Parameter} of the base weights that the file has rounded; those it has as the model does leave `arrays`.

    Where an initialisation takes a part out of the base, the file has what was left, and so will the model.
    """
    found = {}
    for key in [key for key in arrays if key.endswith(f".{BASE_WEIGHT}")]:
        name, rest = _split(key.removeprefix(PREFIX), modules)
        if name and rest != BASE_WEIGHT:  # of a module of the model's own that is called "base_layer"
            continue
        module, array = modules.get(name), arrays.pop(key)
        own = None if module is None else getattr(module, "weight", None)
        reduced = config.changes_base and not isinstance(module, nn.Embedding)
        if own is None or own.shape != array.shape or not (reduced or _is_one_base(own, array)):
            raise ValueError(f"{path} was trained on another base model: its {key} is not the model's")
        if name in adapted and not reduced and not _is_equal(own, array):
            warnings.warn(f"{path} has another {key}: it takes the place of the model's own", stacklevel=5)
            found[f"{name}.{BASE_WEIGHT}"], arrays[key] = own, array
    return found


def _is_equal(own: Any, array: Array) -> bool:
    """Is this, of the same shape, the Parameter's array, but for the rounding of an addition and a subtraction?

    In 16 bits, where such a rounding is as large as what is learnt, it has to be the very same.
    """
    with np.errstate(all="ignore"):
        wide = np.result_type(own.dtype, np.float32)
        ours, theirs = to_numpy(own.data).astype(wide), array.astype(own.dtype).astype(wide)
        allowed = 8 * np.finfo(wide).eps * np.abs(ours).max(initial=0)
        return bool((np.abs(ours - theirs) <= allowed).all())


def _is_one_base(own: Any, array: Array) -> bool:
    """Are most rows of the weight nearly those of the Parameter? (New tokens may have others.)"""
    with np.errstate(all="ignore"):
        ours, theirs = (np.asarray(a, np.float64) for a in (to_numpy(own.data), array))
        lengths = np.maximum(np.linalg.norm(ours, axis=-1), np.finfo(np.float64).tiny)
        return bool(np.median(np.linalg.norm(ours - theirs, axis=-1) / lengths) <= ONE_BASE)


def _whole(arrays, modules, biases, taken):
    """The names of the modules whose own parameters the file has other numbers for, which become copies.

    Arrays that the model has too are taken out, and what a copy needs beside is put in. biases: the names of those that
    the adapter trains anyway; taken: the beginnings of the names of what it adapts or trains whole.
    """
    found: dict[str, None] = {}
    for key in list(arrays):
        name, rest = _split(key.removeprefix(PREFIX), modules)
        own = vars(modules[name]).get(rest) if name else None
        if not isinstance(own, nn.Parameter) or f"{name}.{rest}" in biases or f"{name}.".startswith(taken):
            continue
        if own.shape == arrays[key].shape and _is_equal(own, arrays[key]):
            del arrays[key]
            continue
        for other, module in modules.items():  # a tied weight changes in all its places
            if vars(module).get(rest) is own and not f"{other}.".startswith(taken):
                arrays.setdefault(f"{PREFIX}{other}.{rest}", arrays[key])
                found[other] = None
    for name in found:
        for rest, own in modules[name].named_parameters():
            arrays.setdefault(f"{PREFIX}{name}.{rest}", to_numpy(own.data))
    return list(found)
