"""Loading a model: from a directory as Transformers writes it, or from a GGUF file.

Weights go straight from the file into the place that the model has for them, one at a time, so that loading needs
little more memory than the model.
"""

import contextlib
import re
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ... import nn
from ...storage import is_there, one_version, open_gguf, open_safetensors, open_sharded_safetensors, read_json
from ...storage.fields import short
from ...storage.tensors import TensorFile
from ..architectures import ARCHITECTURES
from ..base import CausalLM
from ..config import ModelConfig
from ..generation.defaults import check_generation_config
from .gguf import GGUFWeights, config_from_gguf

SINGLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"
# Masks and frequencies that old files hold beside the weights: they follow from the config.
CONSTANTS = re.compile(r"(^|\.)(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)$")


def load_pretrained(
    path: str | PathLike, gguf_file: str | None = None, changes: Mapping[str, Any] | None = None
) -> CausalLM:
    """The model at `path`, in float32 and in evaluation mode.

    path: a directory with config.json and model.safetensors (or its shards and their index), written by a model's
    `save_pretrained` or by Transformers; a GGUF file; or, with `gguf_file`, the directory that holds one. The
    weights may be stored as float32, float16, bfloat16, or in GGUF in blocks of a few bits.
    changes: {field: value} of the configuration, in the place of the file's.

    FileNotFoundError if a file is missing; ValueError, with the file's name, if it is damaged, of an unknown
    architecture, or does not hold exactly the weights that the configuration asks for.
    """
    path = Path(path) if gguf_file is None else Path(path) / gguf_file
    load = _load_gguf if path.suffix == ".gguf" else _load_directory
    model = load(path, changes or {})
    model.config.name_or_path = str(path)
    return model.eval()


@one_version
def _load_directory(directory, changes):
    fields = {**read_json(directory / "config.json"), **changes}
    single = not is_there(directory / SHARDED) or is_there(directory / SINGLE)
    open_weights, name = (open_safetensors, SINGLE) if single else (open_sharded_safetensors, SHARDED)
    with open_weights(directory / name) as weights:
        model = _filled(fields, directory / "config.json", weights, directory)
    if is_there(generation := directory / "generation_config.json"):
        model.generation_config = read_json(generation)
        with _naming(generation):
            check_generation_config(model.generation_config)
    return model


def _names(weights, prefix):
    """{name in the file: name in the model}. A file of the transformer alone, without a head, leaves the prefix out."""
    names = [name for name in weights.shapes if not CONSTANTS.search(name)]
    bare = not any(name.startswith(f"{prefix}.") for name in names)
    return {name: f"{prefix}.{name}" if bare and not name.startswith("lm_head.") else name for name in names}


def _load_gguf(path, changes):
    file = open_gguf(path)
    fields = {**gguf_fields(file), **changes}
    with _naming(path):
        weights = GGUFWeights(file, fields)
    return _filled(fields, path, weights, path)


def gguf_fields(file: TensorFile) -> dict[str, Any]:
    """The fields of config.json that an open GGUF file stands for. ValueError, with the file's name, if it cannot."""
    with _naming(file.path):
        return config_from_gguf(file)


def _filled(fields, config_path, weights, path):
    """The model of a configuration with the weights of a file.

    First it is made without memory, and compared with what the file holds: a wrong configuration may ask for terabytes.
    """
    config_class, model_class = classes_of(fields, config_path)
    with _naming(config_path):
        config = config_class.from_dict(fields)
        name, depth = config.depth
        if depth > len(weights.shapes):
            raise ValueError(f"{name} is {depth}, but the file has only {len(weights.shapes)} weights")
        with nn.weightless():
            model = model_class(config)
    _places(model, weights, path)
    with nn.uninitialized():
        model = model_class(config)
    _fill(model, weights, *_places(model, weights, path), path)
    return model


def classes_of(fields: Mapping[str, Any], path: str | PathLike) -> tuple[type[ModelConfig], type[CausalLM]]:
    """The classes of the configuration and of the model. ValueError, with the file's name, if they are not known."""
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"{path}: model_type {short(kind)} is not known ({', '.join(ARCHITECTURES)})")
    return ARCHITECTURES[kind]


@contextlib.contextmanager
def _naming(path):
    """Errors in this block get the file's name."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from None


def _places(model, weights, path):
    """({name in the file: name in the model}, {name in the model: Parameter}), if the two fit."""
    names = _names(weights, model.base_model_prefix)
    state = {new: SimpleNamespace(shape=weights.shapes[name]) for name, new in names.items()}
    with _naming(path):
        return names, model.match_state(state)[0]


def _fill(model, weights, names, found, path):
    """Read every weight into its parameter."""
    tied = model.config.tie_word_embeddings and [name for name, new in names.items() if new == HEAD]
    second = tied if tied and len(names) > len({id(found[new]) for new in names.values()}) else []
    for name, new in names.items():
        if name not in second:
            weights.read_into(name, found[new].data)
    for name in second:
        _read_second_head(model, weights, name, path)


def _read_second_head(model, weights, name, path):
    """A head in the file beside the embedding that it should be: if it differs, both are kept, as in Transformers."""
    head = np.empty(model.lm_head.weight.shape, model.lm_head.weight.dtype)
    weights.read_into(name, head)
    if not np.array_equal(head, model.lm_head.weight.data):
        model.separate_head(head)
        warnings.warn(
            f"{path}: the config says tie_word_embeddings, but {HEAD} is not the embedding: both are kept, untied",
            stacklevel=5,
        )
