"""What a model and its adapters come to, from the fields of its config.json alone: nothing is built or downloaded.

A config is a dict with Hugging Face's field names, `json.load` of a config.json, or `model.config.to_dict()`. GPT-2 and
the Llama family (llama, mistral, qwen2) are known. Layers and parameters have their names in Transformers. What the
numbers here need in bytes is in `memory.py`.
"""

import math

from .targets import ALL_LINEAR, default_targets, match_names

LLAMAS = ("llama", "mistral", "qwen2")
JOINT = "c_attn"  # GPT-2's queries, keys and values in one product; its parts can be adapted alone
PARTS = ("q", "k", "v")
# Layers of a block that read the same activations stand in the same place. A place needs what the earlier ones gave.
PLACES = {
    **dict.fromkeys(("c_attn", "q_proj", "k_proj", "v_proj"), 0),
    **dict.fromkeys(("attn.c_proj", "o_proj"), 2),
    **dict.fromkeys(("c_fc", "gate_proj", "up_proj"), 3),
    **dict.fromkeys(("mlp.c_proj", "down_proj"), 4),
}
ATTENTION = 1  # the place between, softmax(Q Kᵀ) V; what it gives is read in place 2


def dimensions(config):
    """The config's sizes under one set of names, for either family.

    {"C" channels, "V" vocabulary, "blocks", "inner" width of the MLP, "heads", "q" and "kv" widths of all queries' and
    all keys' heads together, "tied" whether the head is the embedding; GPT-2 also has "positions"}. ValueError for an
    unknown model_type or a missing field.
    """
    kind = config.get("model_type")
    try:
        if kind == "gpt2":
            return _gpt2_dimensions(config)
        if kind in LLAMAS:
            return _llama_dimensions(config)
    except KeyError as missing:
        raise ValueError(f"the config of a {kind} model needs the field {missing.args[0]!r}") from None
    raise ValueError(f"model_type {kind!r} is not known here; known are gpt2, {', '.join(LLAMAS)}")


def _gpt2_dimensions(config):
    C = config["n_embd"]
    return {
        "C": C,
        "V": config["vocab_size"],
        "blocks": config["n_layer"],
        "heads": config["n_head"],
        "q": C,
        "kv": C,
        "inner": config.get("n_inner") or 4 * C,
        "positions": config["n_positions"],
        "tied": config.get("tie_word_embeddings", True),
    }


def _llama_dimensions(config):
    C, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or C // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return {
        "C": C,
        "V": config["vocab_size"],
        "blocks": config["num_hidden_layers"],
        "heads": heads,
        "q": heads * head,
        "kv": kv_heads * head,
        "inner": config["intermediate_size"],
        "tied": config.get("tie_word_embeddings", False),
    }


def linear_layers(config):
    """{dotted name: (in, out)} of every linear layer in the model's order; the head, last, also when it is tied."""
    d = dimensions(config)
    C, q, kv, inner = d["C"], d["q"], d["kv"], d["inner"]
    if config["model_type"] == "gpt2":
        prefix = "transformer.h"
        block = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, inner), "mlp.c_proj": (inner, C)}
    else:
        prefix = "model.layers"
        attention = {"q_proj": (C, q), "k_proj": (C, kv), "v_proj": (C, kv), "o_proj": (q, C)}
        mlp = {"gate_proj": (C, inner), "up_proj": (C, inner), "down_proj": (inner, C)}
        block = {f"self_attn.{name}": shape for name, shape in attention.items()}
        block |= {f"mlp.{name}": shape for name, shape in mlp.items()}
    layers = {f"{prefix}.{i}.{name}": shape for i in range(d["blocks"]) for name, shape in block.items()}
    return {**layers, "lm_head": (C, d["V"])}


def weight_shapes(config):
    """{dotted name: shape} of every parameter. A head that is tied to the embedding is the same one, and left out.

    A linear weight is (out, in); GPT-2's, which are Conv1D's, (in, out).
    """
    d, shapes = dimensions(config), {}
    gpt2 = config["model_type"] == "gpt2"
    for name, (fan_in, fan_out) in linear_layers(config).items():
        if name == "lm_head":
            continue
        shapes[f"{name}.weight"] = (fan_in, fan_out) if gpt2 else (fan_out, fan_in)
        if _has_bias(config, name):
            shapes[f"{name}.bias"] = (fan_out,)
    around = _gpt2_others(d) if gpt2 else _llama_others(d)
    head = {} if d["tied"] else {"lm_head.weight": (d["V"], d["C"])}
    return {**around, **shapes, **head}


def _gpt2_others(d):
    """The embeddings and layer norms."""
    C = d["C"]
    norms = [f"h.{i}.{name}" for i in range(d["blocks"]) for name in ("ln_1", "ln_2")] + ["ln_f"]
    shapes = {f"transformer.{norm}.{part}": (C,) for norm in norms for part in ("weight", "bias")}
    return {"transformer.wte.weight": (d["V"], C), "transformer.wpe.weight": (d["positions"], C), **shapes}


def _llama_others(d):
    """The embedding and the norms, which have no bias."""
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes = {f"model.layers.{i}.{name}.weight": (d["C"],) for i in range(d["blocks"]) for name in norms}
    return {"model.embed_tokens.weight": (d["V"], d["C"]), **shapes, "model.norm.weight": (d["C"],)}


def _has_bias(config, name):
    if config["model_type"] == "gpt2":
        return True
    if config["model_type"] == "qwen2":
        return name.endswith(("q_proj", "k_proj", "v_proj"))
    return bool(config.get("attention_bias" if ".self_attn." in name else "mlp_bias", False))


def adapter_sizes(config, r, target_modules=None):
    """{dotted name: r (in + out)}: the parameters of A (r, in) and B (out, r), for each layer that gets an adapter.

    target_modules as in LoraConfig: names, a regular expression, "all-linear", or None for the model's usual ones.
    "c_attn.q", ".k" and ".v" are the thirds of GPT-2's joint projection, (C, C) each. ValueError for a target that
    matches nothing or no linear layer, and for r below 1.
    """
    if not isinstance(r, int) or r < 1:
        raise ValueError(f"r must be an integer of at least 1, got {r!r}")
    layers = linear_layers(config)
    C = dimensions(config)["C"]
    thirds = {f"{name}.{part}": (C, C) for name in layers if name.endswith(JOINT) for part in PARTS}
    found = _targets(config, list(layers), list(thirds), target_modules)
    return {name: r * sum((layers | thirds)[name]) for name in found}


def _targets(config, layers, thirds, target_modules):
    """The names of the layers, or thirds of layers, that `target_modules` means."""
    if target_modules is None:
        target_modules = default_targets("llama" if config["model_type"] in LLAMAS else config["model_type"])
    if target_modules == ALL_LINEAR:
        return [name for name in layers if name != "lm_head"]
    others = dict.fromkeys(name.rpartition(".")[0] for name in weight_shapes(config))
    names = [*layers, *(name for name in others if name not in layers)]
    if not isinstance(target_modules, str):
        names += thirds
    found = match_names(target_modules, names, layers)
    for name in found:
        if name not in layers and name not in thirds:
            raise ValueError(f"only linear layers are counted here; {name!r} is none")
    return found


def count(config, r, target_modules=None):
    """(trainable, all) parameters with LoRA of rank r, as PEFT's print_trainable_parameters gives them.

    trainable = Σ r (in + out) over the adapted layers; "all" is the model and the adapters. A tied weight counts once.
    """
    trainable = sum(adapter_sizes(config, r, target_modules).values())
    return trainable, trainable + model_size(config)


def model_size(config):
    """The number of parameters without any adapter."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())


def flops(config, r=None, target_modules=None, *, batch=1, length, method="lora"):
    """{"forward", "backward", "total"}: floating-point operations of one training step, two for each multiply-add.

    method "full": everything is trained; "lora": A and B of the targets. With N = batch·length rows, a linear layer
    costs 2 N in·out forward, as much again for dx = dy W, and as much again for dW = dyᵀ x. LoRA skips dW, and dx below
    its lowest adapter, so that its step is about 2/3 of a full one; the branch adds 2 N r (in + out) forward and twice
    that backward. Attention, QKᵀ and P V, costs 4 N·length·width forward and twice that backward; the half that the
    causal mask hides is counted, as it is computed here. Elementwise work is left out. ValueError for another method.
    """
    if method not in ("full", "lora"):
        raise ValueError(f"method must be 'full' or 'lora', got {method!r}")
    layers, d = linear_layers(config), dimensions(config)
    rows, full = batch * length, method == "full"
    adapters = {} if full else adapter_sizes(config, r, target_modules)
    lowest = (-1, 0) if full else min(map(place_of, adapters))
    work = [(place_of(name), math.prod(shape)) for name, shape in layers.items()]
    attention = [((i, ATTENTION), 2 * length * d["q"]) for i in range(d["blocks"])]
    forward = sum(size for _, size in work + attention)
    backward = sum(size for place, size in work if place > lowest)  # dx
    backward += sum(2 * size for place, size in attention if place > lowest)
    backward += sum(size for _, size in work) if full else 0  # dW
    branch = sum(adapters.values())
    forward, backward = 2 * rows * (forward + branch), 2 * rows * (backward + 2 * branch)
    return {"forward": forward, "backward": backward, "total": forward + backward}


def place_of(name):
    """(block, place in it): how far up in the model a linear layer, or a part of one, stands."""
    if name == "lm_head":
        return (math.inf, 0)
    block = next(int(part) for part in name.split(".") if part.isdecimal())
    return (block, next(place for ending, place in PLACES.items() if f".{ending}." in f".{name}."))
