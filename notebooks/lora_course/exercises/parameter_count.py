"""Exercise 09: how many parameters an adapter has, from a model's config."""

from lora_np.costs.parameters import adapter_sizes

from .checking import Exercise, Mistake, checker

LLAMA_3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
SMALL = {
    "model_type": "llama",
    "hidden_size": 60,
    "intermediate_size": 100,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
SEVEN = [*ATTENTION, *MLP]


def lora_parameters(config, r, targets):
    """The parameters of A (r, in) and B (out, r) of every layer of a Llama that `targets`, a list of names, means."""
    return sum(adapter_sizes(config, r, targets).values())


def cases():
    """Each layer of a small config by itself, so that a wrong one is named; then several, and large configs."""
    return [
        *({"config": SMALL, "r": 4, "targets": [name]} for name in SEVEN),
        {"config": SMALL, "r": 4, "targets": SEVEN},
        {"config": SMALL, "r": 3, "targets": ["k_proj", "down_proj"]},
        {"config": LLAMA_3_8B, "r": 16, "targets": SEVEN},
        {"config": LLAMA_2_7B, "r": 8, "targets": ["q_proj", "v_proj"]},
    ]


def _shapes(config):
    """{name: (in, out)} of one block."""
    C, inner = config["hidden_size"], config["intermediate_size"]
    kv = C // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"q_proj": (C, C), "k_proj": (C, kv), "v_proj": (C, kv), "o_proj": (C, C)}
    return {**shapes, "gate_proj": (C, inner), "up_proj": (C, inner), "down_proj": (inner, C)}


def _counted(size, shapes=_shapes, blocks=lambda config: config["num_hidden_layers"], all_of_them=False):
    """A count with `size(r, in, out)` for each layer, or with other shapes or blocks."""

    def wrong(config, r, targets):
        chosen = shapes(config) if all_of_them else targets
        return blocks(config) * sum(size(r, *shapes(config)[name]) for name in chosen)

    return wrong


def _size(r, n_in, n_out):
    return r * (n_in + n_out)


def _keys_as(width):
    """Shapes with another width of k_proj and v_proj."""
    return lambda config: _shapes(config) | dict.fromkeys(("k_proj", "v_proj"), (config["hidden_size"], width(config)))


def _mlp_as_attention(config):
    return _shapes(config) | dict.fromkeys(MLP, (config["hidden_size"],) * 2)


MISTAKES = (
    Mistake(
        "keys and values have fewer heads than queries (num_key_value_heads), so k_proj and v_proj are narrower.",
        _counted(_size, _keys_as(lambda config: config["hidden_size"])),
    ),
    Mistake(
        "k_proj and v_proj give num_key_value_heads heads, each of hidden_size / num_attention_heads numbers.",
        _counted(_size, _keys_as(lambda config: config["num_key_value_heads"])),
    ),
    Mistake(
        "k_proj and v_proj are one head wide here; they have num_key_value_heads of them.",
        _counted(_size, _keys_as(lambda config: config["hidden_size"] // config["num_attention_heads"])),
    ),
    Mistake(
        "a // b * c and a // (b * c) are two things: K is the size of a head, times num_key_value_heads.",
        _counted(
            _size,
            _keys_as(lambda c: c["hidden_size"] // (c["num_attention_heads"] * c["num_key_value_heads"])),
        ),
    ),
    Mistake("this is one block: the model has num_hidden_layers of them.", _counted(_size, blocks=lambda config: 1)),
    Mistake("these are the frozen weights, in · out.", _counted(lambda r, n_in, n_out: n_in * n_out)),
    Mistake("r · in · out is no size of A and B: they have r · in and r · out.", _counted(lambda r, i, o: r * i * o)),
    Mistake("only A is counted; B (out, r) learns too.", _counted(lambda r, n_in, n_out: r * n_in)),
    Mistake("only B is counted; A (r, in) learns too.", _counted(lambda r, n_in, n_out: r * n_out)),
    Mistake("r is missing: A has r rows, B has r columns.", _counted(lambda r, n_in, n_out: n_in + n_out)),
    Mistake("all seven layers are counted; only those in `targets` get an adapter.", _counted(_size, all_of_them=True)),
    Mistake("the layers of the MLP are as wide as intermediate_size on one side.", _counted(_size, _mlp_as_attention)),
    Mistake(
        "r is there twice: r · (in + out).",
        _counted(lambda r, n_in, n_out: r * r * (n_in + n_out)),
    ),
)

check = checker(
    Exercise(lora_parameters, cases, results=("the count",), mistakes=MISTAKES),
)
