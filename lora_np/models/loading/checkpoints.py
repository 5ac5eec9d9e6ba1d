"""Loading a model: from a directory as Transformers writes it, or from a GGUF file.

Weights go straight from the file into the place that the model has for them, one at a time, so that loading needs
little more memory than the model.
"""

import contextlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ... import nn
from ...storage import is_there, one_version, open_gguf, open_safetensors, open_sharded_safetensors, read_json
from ...storage.tensors import TensorFile
from ..architectures import classes_of
from ..base import CausalLM
from ..classification import classifier_named
from ..config import ModelConfig
from ..generation import GenerationConfig
from ..labels import with_changes
from ..pretrained_model import PretrainedModel
from .foreign import refuse_foreign
from .gguf import GGUFWeights, config_from_gguf

SINGLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
HEAD = "lm_head.weight"
# Masks and frequencies that old files hold beside the weights: they follow from the config.
CONSTANTS = re.compile(r"(^|\.)((attn|attention)\.(bias|masked_bias)|rotary_emb\.inv_freq)$")


@dataclass(frozen=True)
class Wanted:
    """What a file is to become.

    head      the class of a language model -> the class of the model with the transformer of that
    changes   fields that the configuration is to have instead of the file's
    resized   may a head that has another size than the file's be drawn anew?
    drawn     a list that gets the names of what was drawn anew, because the file does not have it
    dtype     the NumPy dtype that weights are read into; None for float32
    """

    head: Callable[[type[CausalLM]], type[PretrainedModel]] = lambda language_model: language_model
    changes: Mapping[str, Any] = field(default_factory=dict)
    resized: bool = False
    drawn: list[str] = field(default_factory=list)
    dtype: Any = None


def load_pretrained(
    path: str | PathLike, gguf_file: str | None = None, changes: Mapping[str, Any] | None = None
) -> CausalLM:
    """The language model at `path`, in float32 and in evaluation mode; see `load_model`. changes: see `Wanted`."""
    return load_model(path, gguf_file, Wanted(changes=changes or {}))


def load_model(path: str | PathLike, gguf_file: str | None, wanted: Wanted) -> Any:
    """The model at `path` that is `wanted`, in evaluation mode.

    path: a directory with config.json and model.safetensors (or its shards and their index), written by a model's
    `save_pretrained` or by Transformers; a GGUF file; or, with `gguf_file`, the directory that holds one. The
    weights may be stored as float32, float16, bfloat16, or in GGUF in blocks of a few bits.
    changes: {field: value} of the configuration, in the place of the file's.

    FileNotFoundError if a file is missing; ValueError, with the file's name, if it is damaged, of an unknown
    architecture, or does not hold exactly the weights that the configuration asks for.
    """
    path = Path(path) if gguf_file is None else Path(path) / gguf_file
    model = (_load_gguf if path.suffix == ".gguf" else _load_directory)(path, wanted)
    model.config.name_or_path = str(path)
    return model.eval()


@one_version
def _load_directory(directory, wanted):
    fields = read_json(directory / "config.json")
    single = not is_there(directory / SHARDED) or is_there(directory / SINGLE)
    open_weights, name = (open_safetensors, SINGLE) if single else (open_sharded_safetensors, SHARDED)
    if not is_there(directory / name):
        refuse_foreign(directory, SINGLE)
    with open_weights(directory / name) as weights:
        model = _filled(fields, directory / "config.json", weights, directory, wanted)
    if is_there(generation := directory / "generation_config.json"):
        said = read_json(generation)
        with _naming(generation):
            model.generation_config = GenerationConfig.from_dict(said)
    else:
        with _naming(directory / "config.json"):
            model.generation_config = GenerationConfig.from_model_config({**model.config.to_dict(), **fields})
    return model


def _names(weights, prefix, head):
    """{name in the file: name in the model}. A file of the transformer alone, without a head, leaves the prefix out.

    head: what files call the head; as it is called here it is read, too.
    """
    names = [name for name in weights.shapes if not CONSTANTS.search(name)]
    bare = not any(name.startswith(f"{prefix}.") for name in names)
    heads = {name: f"lm_head.{name.split('.', 1)[1]}" for name in names if name.startswith(("lm_head.", f"{head}."))}
    return {name: heads.get(name, f"{prefix}.{name}" if bare else name) for name in names}


def _load_gguf(path, wanted):
    file = open_gguf(path)
    fields = gguf_fields(file)
    with _naming(path):
        weights = GGUFWeights(file, fields)
    return _filled(fields, path, weights, path, wanted)


def gguf_fields(file: TensorFile) -> dict[str, Any]:
    """The fields of config.json that an open GGUF file stands for. ValueError, with the file's name, if it cannot."""
    with _naming(file.path):
        return config_from_gguf(file)


def _filled(fields, config_path, weights, path, wanted):
    """The model of a configuration with the weights of a file.

    First it is made without memory, and compared with what the file holds: a wrong configuration may ask for terabytes.
    """
    with _naming(config_path):
        config_class, language_model = classes_of(fields)
    model_class = wanted.head(language_model)
    _check_is_wanted(fields, model_class, config_path)
    with _naming(config_path):
        config = config_class.from_dict(with_changes(fields, wanted.changes))
        name, depth = config.depth
        if depth > len(weights.shapes):
            raise ValueError(f"{name} is {depth}, but the file has only {len(weights.shapes)} weights")
        with nn.weightless():
            model = model_class(config)
    _places(model, weights, path, wanted)
    with nn.uninitialized():
        model = model_class(config)
    names, places, new = _places(model, weights, path, wanted)
    for p in model.parameters() if wanted.dtype is not None else ():
        p.data = np.empty(p.shape, wanted.dtype)
    _fill(model, weights, names, places, path)
    if new:
        model.draw_head()
        wanted.drawn.extend(new)
    return model


def _check_is_wanted(fields, model_class, path):
    """ValueError if a language model is wanted, and the file says that it holds a classifier."""
    other = classifier_named(fields) if issubclass(model_class, CausalLM) else None
    if other is not None:
        name = other.__name__
        raise ValueError(f"{path} is of a {name}: load it with AutoModelForSequenceClassification.from_pretrained")


def classes_at(fields: Mapping[str, Any], path: str | PathLike) -> tuple[type[ModelConfig], type[CausalLM]]:
    """`architectures.classes_of`; its ValueError names the file."""
    with _naming(path):
        return classes_of(fields)


@contextlib.contextmanager
def _naming(path):
    """Errors in this block get the file's name."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from None


def _places(model, weights, path, wanted):
    """({name in the file: name in the model}, {name in the model: Parameter}, names in the model that the file lacks).

    Only a head can be lacking that the model is able to draw anew. ValueError if the file does not fit otherwise.
    """
    names = _names(weights, model.base_model_prefix, model.head_in_files)
    state = {new: SimpleNamespace(shape=weights.shapes[name]) for name, new in names.items()}
    with _naming(path):
        fitting, new = model.fitting_state(state, wanted.resized)
        found = model.match_state(fitting)[0]
    return {name: given for name, given in names.items() if given in fitting and given not in new}, found, new


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
