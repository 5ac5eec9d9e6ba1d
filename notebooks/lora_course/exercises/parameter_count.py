"""Exercise 09: how many parameters an adapter has, from a model's config."""

from lora_np.costs.parameters import adapter_sizes

from .checking import Edit, Exercise, checker

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


def plain_count(config, r, targets):
    """`lora_parameters`, for the edits."""
    C, F = config["hidden_size"], config["intermediate_size"]
    D = C // config["num_attention_heads"]
    K = D * config["num_key_value_heads"]
    shapes = {"q_proj": (C, C), "k_proj": (C, K), "v_proj": (C, K), "o_proj": (C, C)}
    shapes |= {"gate_proj": (C, F), "up_proj": (C, F), "down_proj": (F, C)}
    total = 0
    for name in targets:
        n_in, n_out = shapes[name]
        total += r * n_in + n_out * r
    return config["num_hidden_layers"] * total


_KV = {'D * config["num_key_value_heads"]': "C"}
EDITS = (
    Edit(
        "a // b * c and a // (b * c) are two things: K is the size of a head, times num_key_value_heads.",
        {'D * config["num_key_value_heads"]': 'C // (config["num_attention_heads"] * config["num_key_value_heads"])'},
    ),
    Edit(
        "the layers of the MLP are as wide as intermediate_size on one side.",
        {
            '"gate_proj": (C, F), "up_proj": (C, F), "down_proj": (F, C)': '"gate_proj": (C, C), "up_proj": (C, C), '
            '"down_proj": (C, C)'
        },
    ),
    Edit("r is there twice: r · (in + out).", {"r * n_in + n_out * r": "r * r * (n_in + n_out)"}),
    Edit(
        "keys and values have fewer heads than queries (num_key_value_heads), so k_proj and v_proj are narrower.", _KV
    ),
    Edit(
        "k_proj and v_proj are one head wide here; they have num_key_value_heads of them.",
        {'D * config["num_key_value_heads"]': "D"},
    ),
    Edit(
        "k_proj and v_proj give num_key_value_heads heads, each of hidden_size / num_attention_heads numbers.",
        {"K = D *": "K ="},
    ),
    Edit(
        "a head has hidden_size / num_attention_heads numbers: the queries' heads, not those of keys and values.",
        {'C // config["num_attention_heads"]': 'C // config["num_key_value_heads"]'},
    ),
    Edit("k_proj is as wide as o_proj here: its output is K.", {'"k_proj": (C, K)': '"k_proj": (C, C)'}),
    Edit("v_proj is as wide as o_proj here: its output is K.", {'"v_proj": (C, K)': '"v_proj": (C, C)'}),
    Edit("k_proj reads the hidden size, C; only its output is K.", {'"k_proj": (C, K)': '"k_proj": (K, K)'}),
    Edit("v_proj reads the hidden size, C; only its output is K.", {'"v_proj": (C, K)': '"v_proj": (K, K)'}),
    Edit("q_proj goes from C to C; K is for keys and values.", {'"q_proj": (C, C)': '"q_proj": (C, K)'}),
    Edit("o_proj goes from C to C; K is for keys and values.", {'"o_proj": (C, C)': '"o_proj": (K, C)'}),
    Edit("gate_proj goes from C to F, the intermediate_size.", {'"gate_proj": (C, F)': '"gate_proj": (C, C)'}),
    Edit("up_proj goes from C to F, the intermediate_size.", {'"up_proj": (C, F)': '"up_proj": (C, C)'}),
    Edit("down_proj goes from F to C, not from F to F.", {"(F, C)": "(F, F)"}),
    Edit("down_proj goes from F, the intermediate_size, to C.", {"(F, C)": "(C, C)"}),
    Edit("only A is counted; B (out, r) learns too.", {" + n_out * r": ""}),
    Edit("only B is counted; A (r, in) learns too.", {"r * n_in + ": ""}),
    Edit("r is missing: A has r rows, B has r columns.", {"r * n_in + n_out * r": "n_in + n_out"}),
    Edit("r is missing from A: it has r rows.", {"r * n_in": "n_in"}),
    Edit("r is missing from B: it has r columns.", {"n_out * r": "n_out"}),
    Edit("these are the frozen weights, in · out.", {"r * n_in + n_out * r": "n_in * n_out"}),
    Edit(
        "r · in · out is no size of A and B: they have r · in and r · out, which are added.",
        {"r * n_in + n_out * r": "r * n_in * n_out"},
    ),
    Edit("B's size is subtracted; add it.", {"r * n_in + n_out": "r * n_in - n_out"}),
    Edit(
        "this is one block: the model has num_hidden_layers of them.", {'config["num_hidden_layers"] * total': "total"}
    ),
    Edit("this is one layer: add up all targets.", {"total += r": "total = r"}),
    Edit("all seven layers are counted; only those in `targets` get an adapter.", {"in targets": "in shapes"}),
    Edit(
        "it is multiplied by the number of heads; it should be num_hidden_layers, the blocks.",
        {'config["num_hidden_layers"]': 'config["num_attention_heads"]'},
    ),
)


LORA_PARAMETERS_HINTS = (
    "A has r · in numbers and B has out · r. One key head has as many numbers as one query head.",
    "r (in + out) for each layer; K = hidden_size / num_attention_heads · num_key_value_heads.",
)

check = checker(
    Exercise(
        lora_parameters,
        cases,
        results=("the count",),
        plain=plain_count,
        edits=EDITS,
        hints=LORA_PARAMETERS_HINTS,
    ),
)
