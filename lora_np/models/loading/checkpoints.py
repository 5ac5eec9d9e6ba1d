"""Loading a model: from a directory as Transformers writes it, or from a GGUF file.

Weights go straight from the file into the place that the model has for them, one at a time, so that loading needs
little more memory than the model.
"""

import re
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ... import nn
from ...storage import is_there, one_version, open_gguf, open_safetensors, open_sharded_safetensors, read_json
from ...storage.tensors import TensorFile
from ..architectures import ARCHITECTURES
from ..base import CausalLM
from .gguf import GGUFWeights, config_from_gguf

SINGLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
# Masks and frequencies that old files hold beside the weights: they follow from the config.
CONSTANTS = re.compile(r"(^|\.)(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)$")


def load_pretrained(path: str | PathLike, gguf_file: str | None = None) -> CausalLM:
    """The model at `path`, in float32 and in evaluation mode.

    path: a directory with config.json and model.safetensors (or its shards and their index), written by a model's
    `save_pretrained` or by Transformers; a GGUF file; or, with `gguf_file`, the directory that holds one. The
    weights may be stored as float32, float16, bfloat16, or in GGUF in blocks of a few bits.

    FileNotFoundError if a file is missing; ValueError, with the file's name, if it is damaged, of an unknown
    architecture, or does not hold exactly the weights that the configuration asks for.
    """
    path = Path(path) if gguf_file is None else Path(path) / gguf_file
    model = _load_gguf(path) if path.suffix == ".gguf" else _load_directory(path)
    model.config.name_or_path = str(path)
    return model.eval()


@one_version
def _load_directory(directory):
    fields = read_json(directory / "config.json")
    generation = directory / "generation_config.json"
    generation_config = read_json(generation) if is_there(generation) else {}
    single = not is_there(directory / SHARDED) or is_there(directory / SINGLE)
    open_weights, name = (open_safetensors, SINGLE) if single else (open_sharded_safetensors, SHARDED)
    with open_weights(directory / name) as weights:
        model = _build(fields, directory / "config.json")
        names = [name for name in weights.shapes if not CONSTANTS.search(name)]
        _fill(model, weights, _with_prefix(names, model.base_model_prefix), directory)
    model.generation_config = generation_config
    return model


def _with_prefix(names, prefix):
    """{name in the file: name in the model}. A file of the transformer alone, without a head, leaves the prefix out."""
    bare = not any(name.startswith(f"{prefix}.") for name in names)
    return {name: f"{prefix}.{name}" if bare and not name.startswith("lm_head.") else name for name in names}


def _load_gguf(path):
    file = open_gguf(path)
    fields = gguf_fields(file)
    try:
        weights = GGUFWeights(file, fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    model = _build(fields, path)
    _fill(model, weights, {name: name for name in weights.shapes}, path)
    return model


def gguf_fields(file: TensorFile) -> dict[str, Any]:
    """The fields of config.json that an open GGUF file stands for. ValueError, with the file's name, if it cannot."""
    try:
        return config_from_gguf(file)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def _build(fields, path):
    """A model of this configuration, its weights still to be filled in."""
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{path}: model_type {kind!r} is not known ({known})")
    config_class, model_class = ARCHITECTURES[kind]
    try:
        with nn.uninitialized():
            return model_class(config_class.from_dict(fields))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from None


def _fill(model, weights, names, path):
    """Read every weight into its parameter. names: {name in the file: name in the model}."""
    state = {new: SimpleNamespace(shape=weights.shapes[name]) for name, new in names.items()}
    try:
        found, _, _ = model.match_state(state)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from None
    for name, new in names.items():
        weights.read_into(name, found[new].data)
