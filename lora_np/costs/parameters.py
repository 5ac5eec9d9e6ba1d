"""How many parameters a model and its adapters have, from the fields of its config.json alone.

A config is a dict with Hugging Face's field names, `json.load` of a config.json, or `model.config.to_dict()`. The model
is made from its real class, with weights that take no memory: what is counted is what there is. All architectures of
`models/architectures.py` are known. Layers and parameters have their names in Transformers.
"""

import math

from .. import nn
from ..lora.targets import find_targets
from .places import linear_modules, places
from .weightless import model_of


def dimensions(config):
    """The config's sizes under one set of names, whatever the family.

    {"C" channels, "V" vocabulary, "blocks", "inner" width of the MLP, "heads", "q" and "kv" widths of all queries' and
    all keys' heads together, "tied" whether the head is the embedding; GPT-2 also has "positions"}. ValueError for an
    unknown model_type or a missing field.
    """
    model, seen = model_of(config), places(config)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    first = [linear_layers(config)[name] for name, place in seen.layers.items() if place == (0, 0)]
    last = next(reversed([name for name in seen.layers if name in seen.blocks]))
    q = seen.attention.get((0, 1), 0)
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    return {
        "C": embedding.embedding_dim,
        "V": embedding.num_embeddings,
        "blocks": 1 + max(seen.blocks.values()),
        "heads": next((module.heads for module in model.modules() if hasattr(module, "heads")), None),
        "q": q,
        "kv": (sum(fan_out for _, fan_out in first) - q) // 2,
        "inner": linear_layers(config)[last][0],
        **({"positions": tables[1]} if len(tables) > 1 else {}),
        "tied": head.weight is embedding.weight,
    }


def linear_layers(config):
    """{dotted name: (in, out)} of every linear layer in the model's order; the head, last, also when it is tied."""
    layers = linear_modules(model_of(config))
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


def weight_shapes(config):
    """{dotted name: shape} of every parameter. A head that is tied to the embedding is the same one, and left out.

    A linear weight is (out, in); GPT-2's, which are Conv1D's, (in, out).
    """
    return {name: p.shape for name, p in model_of(config).named_parameters()}


def adapter_sizes(config, r, target_modules=None):
    """{dotted name: r (in + out)}: the parameters of A (r, in) and B (out, r), for each layer that gets an adapter.

    target_modules as in LoraConfig: names, a regular expression, "all-linear", or None for the model's usual ones.
    "c_attn.q", ".k" and ".v" are parts of GPT-2's joint projection, (C, C) each. ValueError for a target that
    matches nothing or no linear layer, and for r below 1.
    """
    if not isinstance(r, int) or r < 1:
        raise ValueError(f"r must be an integer of at least 1, got {r!r}")
    model = model_of(config)
    layers = linear_modules(model)
    targets = list(target_modules) if isinstance(target_modules, tuple) else target_modules
    return {name: r * sum(_fans(layers, name)) for name in find_targets(model, targets)}


def layer_shape(config, name):
    """(in, out) of a linear layer of this name, or of a part of a joint projection."""
    return _fans(linear_modules(model_of(config)), name)


def _fans(layers, name):
    """(in, out) of a linear layer or of one of its parts."""
    if name in layers:
        return layers[name].in_features, layers[name].out_features
    whole = layers.get(name.rpartition(".")[0])
    if whole is None:
        raise ValueError(f"only linear layers are counted here; {name!r} is none")
    return whole.in_features, whole.parts[name.rpartition(".")[2]]


def count(config, r, target_modules=None):
    """(trainable, all) parameters with LoRA of rank r, as PEFT's print_trainable_parameters gives them.

    trainable = Σ r (in + out) over the adapted layers; "all" is the model and the adapters. A tied weight counts once.
    """
    trainable = sum(adapter_sizes(config, r, target_modules).values())
    return trainable, trainable + model_size(config)


def model_size(config):
    """The number of parameters without any adapter."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())
