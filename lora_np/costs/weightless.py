"""The model that a config.json describes, made from its real class, with weights that take no memory."""

import dataclasses
import json
from functools import lru_cache, wraps

import numpy as np

from .. import nn
from ..models.architectures import classes_of
from ..models.classification import classifier_named
from ..models.config import Depth, Size
from .shapes import ShapeArray

# no parameter and no cost depends on these
ROTARY = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_pct", "rotary_emb_base")
NO_SHAPE = (  # sizes that are no array's
    *("max_position_embeddings", "original_max_position_embeddings", "sliding_window"),
    *("no_rope_layer_interval", "query_pre_attn_scalar"),
)


def build(config):
    """A new model of a config, a dict with the fields of config.json: for its names and shapes, it cannot be called.

    ValueError for an unknown model_type or a missing field.
    """
    config_class, model_class = classes_of(config)
    _check_sizes_given(config_class, config)
    fields = {name: value for name, value in config.items() if name not in ROTARY}
    with nn.weightless(lambda value, shape: ShapeArray(np.atleast_1d(shape).tolist())):
        return (classifier_named(config) or model_class)(config_class.from_dict(fields))


def cached(function):
    """The function of a config, computed once for each: so its result must not be changed."""
    known = lru_cache(maxsize=32)(lambda text: function(json.loads(text)))
    return wraps(function)(lambda config: known(json.dumps(config, default=_plain)))


def _plain(value):
    """What JSON does not know: NumPy's numbers as Python's, anything else in words."""
    return value.item() if hasattr(value, "item") else str(value)


model_of = cached(build)


def _check_sizes_given(config_class, fields):
    """ValueError if a size has no value: a default would be counted in silence.

    The context is one only where it is the length of a table of positions, as in GPT-2; there it has another name.
    """
    for field in dataclasses.fields(config_class):
        name, is_size = field.name, field.type in (Size, Size | None, Depth) and field.default is not None
        if is_size and name not in fields and name not in NO_SHAPE:
            raise ValueError(f"the config of a {fields['model_type']} model needs the field {name!r}")


def to_shapes(model):
    """Put a `ShapeArray` in the place of each array of the model, so that it can be called for what that costs."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor.data, ShapeArray):
            tensor.data = ShapeArray(tensor.shape, tensor.dtype)
    return model


def no_ids(batch, length):
    """Token ids to call such a model with."""
    return np.zeros((batch, length), np.int64)
