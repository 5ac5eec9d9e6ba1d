"""Exercise 10: which layers of a model get an adapter."""

import re

from lora_np.costs.parameters import linear_layers
from lora_np.lora.targets import ALL_LINEAR, match_names

from .checking import Edit, Exercise, checker

GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 16, "n_positions": 8}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 16,
}
SHARED = ["layers.0.up_proj", "layers.0.shared_up_proj", "layers.1.up_proj.gate", "lm_head"]


def find_targets(layers, target_modules):
    """Those of `layers`, dotted names in the model's order, that `target_modules` means.

    A list means the layers whose whole name is in it, or the end of it after a dot; a string is a regular
    expression for the whole name; "all-linear" means all but "lm_head". ValueError for an entry of a list that means
    no layer.
    """
    if target_modules == ALL_LINEAR:
        return [name for name in layers if name != "lm_head"]
    return match_names(target_modules, layers, layers)


def cases():
    """GPT-2, Llama, and a made-up model with names that end alike."""
    gpt2, llama = list(linear_layers(GPT2)), list(linear_layers(LLAMA))
    asked = [
        (gpt2, ["c_attn"]),
        (llama, ["v_proj", "q_proj"]),
        (gpt2, ["attn.c_proj", "lm_head"]),
        (llama, ["model.layers.1.mlp.up_proj"]),
        (SHARED, ["up_proj"]),
        (gpt2, "all-linear"),
        (llama, r".*\.0\.self_attn\.[qv]_proj"),
        (SHARED, r"layers\.\d\.up_proj"),
        (SHARED, r"layers.*proj"),
        (SHARED, r"(shared_)?up_proj|lm_head"),
    ]
    return [{"layers": layers, "target_modules": target_modules} for layers, target_modules in asked]


def unknown_name(function):
    """None, or a sentence if a target that means no layer is passed over in silence."""
    layers = list(linear_layers(GPT2))
    for target_modules in (["q_attn", "v_attn"], ["c_attn", "q_attn"]):
        try:
            function(list(layers), list(target_modules))
        except ValueError:
            continue
        except Exception as error:
            return f"{target_modules} raises {type(error).__name__}; it should be a ValueError."
        return (
            f"what is found is right, but {target_modules} raises no ValueError, although GPT-2 has no layer q_attn. "
            "Check each entry of the list by itself."
        )
    return None


def plain_targets(layers, target_modules):
    """`find_targets`, for the edits."""
    if target_modules == "all-linear":
        return [name for name in layers if name != "lm_head"]
    if isinstance(target_modules, str):
        return [name for name in layers if re.fullmatch(target_modules, name)]
    return [n for n in layers if any(n == t or n.endswith("." + t) for t in target_modules)]


_ENDS = 'n == t or n.endswith("." + t)'
_HEADLESS_LIST = {"for n in layers if any(": 'for n in layers if n != "lm_head" and any('}
_HEADLESS_PATTERN = {"if re.fullmatch(": 'if name != "lm_head" and re.fullmatch('}
EDITS = (
    Edit(
        "one part of a name after the other is compared; a target may have several, and has to be the end.",
        {_ENDS: 't in n.split(".")'},
    ),
    Edit(
        "the order is that of the targets; it should be the model's.",
        {f"n in layers if any({_ENDS} for t in target_modules)": f"t in target_modules for n in layers if {_ENDS}"},
    ),
    *(
        Edit('only "all-linear" leaves lm_head out; a list or a pattern may ask for it.', changes)
        for changes in (_HEADLESS_LIST, _HEADLESS_PATTERN, _HEADLESS_LIST | _HEADLESS_PATTERN)
    ),
    Edit(
        "a name is found anywhere inside a layer's name; a target is the whole name, or its end after a dot.",
        {_ENDS: "t in n"},
    ),
    Edit('the end of a name counts only after a dot: "up_proj" does not mean "shared_up_proj".', {'"." + t': "t"}),
    Edit("a whole name should be found too.", {"n == t or ": ""}),
    Edit("a list may name a layer by the end of its name, too.", {' or n.endswith("." + t)': ""}),
    Edit("the end of a name counts, and not its beginning.", {"endswith": "startswith"}),
    Edit(
        "only the last part of a name is compared; attn.c_proj and whole names should be found too.",
        {_ENDS: 'n.split(".")[-1] == t'},
    ),
    Edit("a layer is meant if any of the targets fits, not all of them.", {"if any(": "if all("}),
    Edit("the selection is the wrong way round: these are the layers that are not meant.", {"if any(": "if not any("}),
    Edit("the pattern is searched inside the name; it has to fit the whole: re.fullmatch.", {"fullmatch": "search"}),
    Edit("re.match looks at the beginning only; it has to fit the whole name: re.fullmatch.", {"fullmatch": "match"}),
    Edit(
        "a string is a regular expression, and not a name.",
        {"re.fullmatch(target_modules, name)": "name == target_modules"},
    ),
    Edit(
        "a string is a regular expression, and not a part of a name.",
        {"re.fullmatch(target_modules, name)": "target_modules in name"},
    ),
    Edit('"all-linear" leaves the output head out: "lm_head".', {' if name != "lm_head"': ""}),
    Edit('"all-linear" means all but the head, not the head alone.', {'name != "lm_head"': 'name == "lm_head"'}),
    Edit('"all-linear" is a word of its own, and no regular expression.', {'== "all-linear"': '== "all_linear"'}),
    Edit("re.fullmatch takes the pattern first, then the name.", {"(target_modules, name)": "(name, target_modules)"}),
)


check = checker(
    Exercise(
        find_targets,
        cases,
        results=("the list",),
        rules=(unknown_name,),
        plain=plain_targets,
        edits=EDITS,
    ),
)
